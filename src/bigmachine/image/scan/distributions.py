"""Installed distributions as layers, and what else lies beside them in a site-packages directory.

A distribution with a RECORD is named by it. Its files are asked for their size and time only: a file is read where
the size is not RECORD's, or where it was changed after RECORD was written, as somebody does who patches an installed
package to find a bug; and where two distributions claim one path with different contents. The layer then says what
really is there.

What no RECORD owns is read once: distributions installed without one (`.egg-info`, those of Linux distributions), by
their top-level names, and the rest as one layer of strays.
"""

from __future__ import annotations

import os
import posixpath
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bigmachine.errors import ImageError
from bigmachine.image.bundles import elf
from bigmachine.image.manifest import File
from bigmachine.image.scan import record
from bigmachine.image.scan.cache import ScanCache, State, hash_file, state
from bigmachine.image.scan.placed import Placed, is_compiled, place

#: RECORD is the last file that an installer writes, but clocks of file systems are coarse.
RECORD_SLACK_NS = 2_000_000_000


class Unit(NamedTuple):
    """What is found together and remembered together."""

    placed: Placed
    is_new: bool


class Found:
    """Files that go into one layer, hashed where they have to be."""

    def __init__(self, before: tuple[list[str], Sequence[State], Any] | None, distrusted: Collection[str] = ()) -> None:
        self.files: list[tuple[File, str]] = []
        self._hashes: dict[str, tuple[State, str]] = {}
        self._distrusted = distrusted
        if before is not None:
            watched, known, plain = before
            hashes = plain[2].split("\n")  # of the first of the watched
            self._hashes = {path: (each, digest) for path, each, digest in zip(watched, known, hashes, strict=False)}

    def add(self, path: str, source: str, *, recorded: record.Row | None = None, until: int = 0) -> None:
        """Take a file, unless it is gone. What RECORD says holds for files not changed after `until` (ns)."""
        try:
            status = os.stat(source)
        except OSError:
            return
        digest = self._known(source, status, recorded, until)
        if not digest:
            try:
                digest, status = hash_file(source)
            except FileNotFoundError:
                return  # it went away just now, as if it had never been there
        self.files.append((File(path, digest, status.st_size, bool(status.st_mode & 0o100)), source))

    def _known(self, source: str, found: os.stat_result, recorded: record.Row | None, until: int) -> str:
        known = self._hashes.get(source)
        if source in self._distrusted:
            return ""
        if known is not None and known[0] == state(found):
            return known[1]
        is_as_recorded = recorded is not None and recorded.size == found.st_size and found.st_mtime_ns <= until
        return recorded.sha256 if recorded is not None and is_as_recorded else ""

    def escapes(self) -> bool:
        """Whether a library among them looks for others elsewhere."""
        libraries = [(file.path, source) for file, source in self.files if is_compiled(file.path)]
        if sys.platform != "linux":
            return bool(libraries)  # not looked into: hard links are right for all of them
        folders = elf.folders_of(file.path for file, _ in self.files)
        try:
            return any(elf.leaves(path, elf.search_paths(source), folders) for path, source in libraries)
        except OSError as error:
            raise ImageError(f"scan: {error.filename} cannot be read ({error.strerror}): make it readable") from error


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except OSError:
        return ""


class Site:
    """One site-packages directory: `left_out` are names in it that go another way (`.pth` files, editable finders)."""

    def __init__(self, path: str, cache: ScanCache, left_out: Collection[str], distrusted: Collection[str]) -> None:
        self.path = path
        self.prefix = record.prefix_of(path)
        self.cache = cache
        self.left_out = frozenset(left_out)
        self.distrusted = frozenset(distrusted)
        self._key = tuple(sorted(self.left_out))

    def recorded(self, infos: Iterable[str]) -> dict[str, Unit]:
        """Return the layers of the distributions that have a RECORD, by the name of their `.dist-info`."""
        found = {info: self.distribution(info) for info in infos}
        if not any(unit.is_new for unit in found.values()):
            return found
        for info, disputed in _disputed({info: unit.placed for info, unit in found.items()}).items():
            found[info] = self.distribution(info, disputed)
        return found

    def distribution(self, info: str, disputed: Collection[str] = ()) -> Unit:
        """Return the layer of one distribution, from its RECORD.

        Raises:
            ImageError: if RECORD or a file that has to be read cannot be read.
        """
        folder = f"{self.path}/{info}"
        unit = f"dist {info}"
        if not (disputed or self.distrusted) and (kept := self.cache.holds(unit, self._key)) is not None:
            return Unit(self._read(kept), False)
        name, version = record.named(info)
        recorded_at, scripts = (
            _recorded_at(f"{folder}/RECORD"),
            record.script_names(_text(f"{folder}/entry_points.txt")),
        )
        found = Found(self.cache.before(unit), self.distrusted | frozenset(disputed))
        for row in record.rows(_text(f"{folder}/RECORD"), name):
            where = record.scheme_path(row.path, self.path, self.prefix)
            if where is None or where[5:] in self.left_out or record.is_left_out(where, info, scripts):
                continue
            source = posixpath.normpath(f"{self.path}/{row.path}") if ".." in row.path else f"{self.path}/{row.path}"
            found.add(where, source, recorded=row, until=recorded_at + RECORD_SLACK_NS)
        placed = place(
            "dist",
            name,
            found.files,
            version=version,
            pure=record.tag(_text(f"{folder}/WHEEL")).is_pure,
            escapes=found.escapes(),
        )
        watched = [*placed.sources, f"{folder}/RECORD"]
        self.cache.put(unit, self._key, watched, placed.plain(f"{self.path}/", "site/"))
        return Unit(placed, True)

    def _read(self, kept: tuple[list[str], Any]) -> Placed:
        return Placed.of_plain(kept[1], kept[0], f"{self.path}/", "site/")

    def unrecorded(self, files: Iterable[str], owned: Collection[str], tops: Mapping[str, str]) -> list[Placed]:
        """Return the layers of files (absolute) that none of the recorded distributions owns.

        `tops` says to which distribution without RECORD a top-level name belongs.
        """
        groups: dict[str, list[str]] = {}
        for source in files:
            inside = source[len(self.path) + 1 :]
            if source not in owned and not self._is_no_part(inside):
                groups.setdefault(tops.get(inside.partition("/")[0], ""), []).append(source)
        self.cache.put("groups", self._key, (), tuple(sorted(groups)))
        return [self._hashed(info, sorted(sources)) for info, sources in sorted(groups.items())]

    def unrecorded_before(self) -> list[Placed] | None:
        """Return the same as at the last scan, if all those files are as they were, or None.

        That is the answer only if the directory's names and the recorded distributions are, too.
        """
        groups = self.cache.holds("groups", self._key)
        if groups is None or self.distrusted:
            return None
        kept = [self.cache.holds(f"hashed {info}", ()) for info in groups[1]]
        return None if None in kept else [self._read(each) for each in kept if each is not None]

    def _is_no_part(self, inside: str) -> bool:
        folder, _, name = inside.rpartition("/")
        return inside in self.left_out or (folder.endswith(".dist-info") and name in record.INSTALLERS_OWN)

    def _hashed(self, info: str, sources: list[str]) -> Placed:
        unit = f"hashed {info}"
        if not self.distrusted and (kept := self.cache.holds(unit, (), sources)) is not None:
            return self._read(kept)
        found = Found(self.cache.before(unit), self.distrusted)
        for source in sources:
            found.add(f"site/{source[len(self.path) + 1 :]}", source)
        if info:
            name, version = record.named(info)
            placed = place("dist", name, found.files, version=version, escapes=found.escapes())
        else:
            placed = place("patch", "strays", found.files, escapes=found.escapes())
        self.cache.put(unit, (), placed.sources, placed.plain(f"{self.path}/", "site/"))
        return placed


def _recorded_at(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _disputed(placed: Mapping[str, Placed]) -> dict[str, set[str]]:
    """Return the sources that several distributions claim with different contents, by distribution."""
    found: dict[str, set[str]] = {}
    sources = [source for each in placed.values() for source in each.sources]
    if len(set(sources)) == len(sources):
        return found  # as nearly always, and without asking for any layer's files
    claims: dict[str, tuple[str, str]] = {}
    for info, each in placed.items():
        for file, source in zip(each.layer.files, each.sources, strict=True):
            other, digest = claims.setdefault(source, (info, file.sha256))
            if digest != file.sha256:
                found.setdefault(info, set()).add(source)
                found.setdefault(other, set()).add(source)
    return found


__all__ = ["RECORD_SLACK_NS", "Found", "Site", "Unit"]
