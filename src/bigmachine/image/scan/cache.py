"""What the last scan found, so that the next one only has to ask whether it is still so.

Each folder that is scanned (a site-packages, a project) has a file in the user's cache directory. It holds *states*: a
path with what `stat` said of it. The identity of a file is its modification and change times, size and inode; that of
a folder is the same, and changes when a name in it comes or goes. While all states of a unit (a distribution, a tree)
hold, what was found for it holds, and nothing is read.

Two rules make that safe. A state younger than a second when it was taken is not kept: a clock ticks in steps of
milliseconds, so a file could be written again within the same tick. And nothing is believed of a cache file that is
damaged, or that another version wrote: then everything is scanned as if for the first time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import marshal
import math
import os
import shutil
import stat
import struct
import sys
import tempfile
import time
import zlib
from array import array
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from bigmachine.errors import ImageError

_log = logging.getLogger("bigmachine.image")

#: A file or folder as it is now: a hash of its modification and change times, size and inode. Such a hash is the same
#: in every process (only those of strings are not), and a tenth of what the four numbers take to read and compare.
State = int

#: The state of what was too young to be relied on, or is not there. No hash is -1 in CPython, so it equals none.
UNKNOWN: Final[State] = -1

_MAGIC: Final = b"bigmachine-scan-4 " + sys.implementation.cache_tag.encode() + b"\n"
_SUM: Final = struct.Struct(">I")
_YOUNG_NS: Final = 1_000_000_000
_KEPT_SECONDS: Final = 60 * 86_400
_CHUNK: Final = 1 << 20


def cache_directory() -> Path:
    """Return the user's cache directory for images (`$XDG_CACHE_HOME/bigmachine`, by default `~/.cache/bigmachine`)."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "bigmachine"


_IDENTITY: Final = attrgetter("st_mtime_ns", "st_ctime_ns", "st_size", "st_ino")


def state(found: os.stat_result) -> State:
    """Return the state of what has this status."""
    return hash(_IDENTITY(found))


def states(joined: str, root: str) -> list[State]:
    """Return the states of what these paths (with NUL between them) lead to, `UNKNOWN` for what is gone.

    Most of them are below the folder `root`: from there the system goes fewer steps to each.
    """
    inside = f"\0{joined}".replace(f"\0{root}/", "\0")[1:]
    try:
        # What decides how long a start takes when nothing has changed, hence without a line of Python for each file.
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return list(map(hash, map(_IDENTITY, map(partial(os.stat, dir_fd=folder), _split(inside)))))
        finally:
            os.close(folder)
    except OSError:
        return [_state_since(path, math.inf) for path in _split(joined)]


def _state_since(path: str, limit: float) -> State:
    """Return the state of a path, `UNKNOWN` if it changed at `limit` (ns) or later."""
    try:
        found = os.stat(path)
    except OSError:
        return UNKNOWN
    return state(found) if max(found.st_mtime_ns, found.st_ctime_ns) < limit else UNKNOWN


def hash_file(path: str) -> tuple[str, os.stat_result]:
    """Return the SHA-256 of a file as it is read now, and the status that goes with it.

    Raises:
        FileNotFoundError: It is not there (any more).
        ImageError: It cannot be read, or is written to without pause.
    """
    try:
        for _ in range(3):
            with open(path, "rb", buffering=0) as file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise ImageError(f"scan: {path} is no file any more: keep the program's files while it starts")
                digest = hashlib.sha256()
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                after = os.fstat(file.fileno())
            if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
                return digest.hexdigest(), after
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ImageError(
            f"scan: {path} cannot be read ({error.strerror}), so no machine can get it: make it readable, or leave it "
            "out by a line in .bigmachineignore or Image(exclude=...)"
        ) from error
    raise ImageError(f"scan: {path} is written to all the time: leave it out by a line in .bigmachineignore")


class ScanCache:
    """What is remembered of one scanned folder. Without a `directory`, nothing is.

    `root` is the folder, and after a NUL whatever else tells what is remembered from the rest.
    """

    def __init__(self, directory: Path | None, root: str) -> None:
        name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
        #: The folder.
        self.root = root.partition("\0")[0]
        self._file = None if directory is None else directory / "scan" / f"{name}.bin"
        self._now = time.time_ns()
        self._units: dict[str, tuple[Any, ...]] = self._load()
        self._is_changed = False
        self._used: set[str] = set()

    def holds(self, unit: str, key: object, paths: Sequence[str] | None = None) -> tuple[list[str], Any] | None:
        """Return what a unit watches and what was found for it, if that still holds, or None.

        It holds if `key`, whatever else it was found from, is the same, and all watched are as they were. With `paths`,
        the unit must watch exactly these.
        """
        self._used.add(unit)
        kept = self._units.get(unit)
        if kept is None or kept[0] != key:
            return None
        watched = _split(kept[1])
        if paths is not None and list(paths) != watched:
            return None
        return (watched, kept[3]) if array("q", states(kept[1], self.root)).tobytes() == kept[2] else None

    def before(self, unit: str) -> tuple[list[str], Sequence[State], Any] | None:
        """Return the paths, states and finding of a unit as it was at the last scan, whether it holds or not."""
        kept = self._units.get(unit)
        return None if kept is None else (_split(kept[1]), memoryview(kept[2]).cast("q"), kept[3])

    def put(self, unit: str, key: object, watched: Sequence[str], what: object) -> None:
        """Remember what was found, with the states of what is to be watched.

        They are taken only now: what changed since it was looked at is young, and not relied on. `key` and `what` are
        made of tuples, lists, strings, bytes and numbers.
        """
        limit = self._now - _YOUNG_NS
        found = array("q", [_state_since(path, limit) for path in watched]).tobytes()
        self._used.add(unit)
        self._units[unit] = (key, "\0".join(watched), found, what)
        self._is_changed = True

    def forget_unused(self) -> None:
        """Forget the units that nobody asked for since this was opened: what they were found in is gone."""
        for gone in self._units.keys() - self._used:
            del self._units[gone]
            self._is_changed = True

    def _load(self) -> dict[str, tuple[Any, ...]]:
        if self._file is None:
            return {}
        try:
            with open(self._file, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                    return {}  # somebody else could have written it, and it says what a machine runs
                content = file.read()
            if status.st_mtime < time.time() - 86_400:
                os.utime(self._file)  # it is in use
        except OSError:
            return {}
        start = len(_MAGIC) + _SUM.size
        body = memoryview(content)[start:]
        if content[: len(_MAGIC)] != _MAGIC or _checksum(body) != content[len(_MAGIC) : start]:
            return {}
        found = marshal.loads(body)  # noqa: S302 - our own file, and its checksum is right
        return found if isinstance(found, dict) else {}

    def save(self) -> None:
        """Write it down, if anything changed. That it cannot be written is no error: the next scan takes longer."""
        if self._file is None or not self._is_changed:
            return
        body = marshal.dumps(self._units, 2)  # later versions look for objects that are the same, of which it has none
        try:
            private_directory(self._file.parent)
            write_atomically(self._file, _MAGIC + _checksum(body) + body)
            _sweep(self._file.parent.parent)
        except OSError as error:
            _log.debug("the scan of the program is not remembered: %s cannot be written (%s)", self._file, error)
        self._is_changed = False


def _checksum(body: bytes | memoryview) -> bytes:
    """Tell a damaged file from a whole one; who could change it on purpose could change the programs themselves."""
    return _SUM.pack(zlib.crc32(body))


def _sweep(directory: Path) -> None:
    """Remove what nobody used for two months: scans, compiled modules, packages for other platforms."""
    for folder in ("scan", "pyc", "foreign"):
        with contextlib.suppress(OSError):  # there is none, or another process sweeps at the same time
            for entry in os.scandir(directory / folder):
                if entry.stat().st_mtime < time.time() - _KEPT_SECONDS:
                    shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)


def _split(joined: str) -> list[str]:
    return joined.split("\0") if joined else []


def private_directory(path: Path) -> None:
    """Make a directory, and those around it that are missing, for the user's eyes only.

    Raises:
        OSError: if it cannot be made.
    """
    if not path.is_dir():
        private_directory(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it, readable by the user only.

    Raises:
        OSError: if it cannot be written.
    """
    number, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with open(number, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


__all__ = [
    "UNKNOWN",
    "ScanCache",
    "State",
    "cache_directory",
    "hash_file",
    "private_directory",
    "state",
    "states",
    "write_atomically",
]
