"""The project's own files as layers: trees.

A tree is a folder with what the rules of `bigmachine.image.scan.ignore` leave of it. Symbolic links that stay inside
are links on the machine, too; those that lead out are replaced by what they lead to, since that is not there. Dangling
ones, sockets and devices are left here.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from bigmachine.errors import ImageError
from bigmachine.frozen import frozen
from bigmachine.image.manifest import File
from bigmachine.image.scan.cache import ScanCache
from bigmachine.image.scan.distributions import Found
from bigmachine.image.scan.ignore import Ignored, is_secret
from bigmachine.image.scan.placed import Placed, place

_log = logging.getLogger("bigmachine.image")

_MARKS: Final = ("pyproject.toml", "setup.py", "setup.cfg", ".git", ".hg")

#: A tree beyond this is told of, since nobody wants to send a data set by accident.
BIG_BYTES: Final = 100_000_000
BIG_FILES: Final = 10_000
#: It is told with so many folders; so much of one explains it.
_LISTED: Final = 10
_EXPLAINED: Final = 0.9


@frozen
class Tree:
    """A folder to scan. `only`: the files and folders below it that go along; None: all. `extra`: what goes anyway.

    `name` is for the image, `inside` the folder below the mount where it goes.
    """

    root: str
    name: str
    only: tuple[str, ...] | None = None
    extra: tuple[str, ...] = ()
    inside: str = ""


def is_too_wide(folder: str) -> bool:
    """Whether a folder is nobody's project, such as a home directory: it is never sent whole."""
    home = os.path.realpath(os.path.expanduser("~"))
    real = os.path.realpath(folder)
    shared = {os.path.realpath(each) for each in ("/tmp", "/var/tmp", tempfile.gettempdir())}  # noqa: S108 (not used)
    return real == "/" or real in shared or f"{home}/".startswith(f"{real}/")


def project_root(folder: str) -> str | None:
    """Return the nearest folder, from this one up, that looks like a project; None if there is none."""
    while not is_too_wide(folder):
        if any(os.path.exists(f"{folder}/{mark}") for mark in _MARKS):
            return folder
        folder = os.path.dirname(folder)
    return None


def safe_name(path: str) -> str:
    """Return the name of a folder as one that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", os.path.basename(path)).lstrip(".")[:40] or "tree"


class Walk:
    """One walk over a tree: which files go, and all that the answer depends on."""

    def __init__(self, tree: Tree, exclude: Sequence[str]) -> None:
        self.tree = tree
        self.ignored = Ignored(tree.root, exclude)
        self.files: dict[str, str] = {}  # relative -> source
        self.links: dict[str, str] = {}  # relative -> target as it is on the machine
        self.folders: list[str] = []
        self._entered: set[str] = set()
        for start in (tree.root,) if tree.only is None else tree.only:
            if os.path.isdir(start):
                self._enter(start, start[len(tree.root) + 1 :])
            else:
                self._file(start, start[len(tree.root) + 1 :])
        for start in tree.extra:
            self._extra(start)
        self._settle_links()

    def _enter(self, folder: str, relative: str) -> None:
        waiting = [(folder, relative)]
        while waiting:
            here, inside = waiting.pop()
            real = os.path.realpath(here)
            if real in self._entered:
                continue
            self._entered.add(real)
            self.folders.append(here)
            entries = _entries(here)
            names = frozenset(entry.name for entry in entries)
            for entry in entries:
                path = f"{inside}/{entry.name}" if inside else entry.name
                is_folder = _is_folder(entry)
                if self._is_kept_metadata(entry, inside) or not self.ignored(
                    f"{self.tree.root}/{path}", names, is_folder=is_folder
                ):
                    if entry.is_symlink():
                        waiting += self._link(entry.path, path, is_folder)
                    elif is_folder:
                        waiting.append((entry.path, path))
                    elif entry.is_file():
                        self.files[path] = entry.path

    def _is_kept_metadata(self, entry: os.DirEntry[str], inside: str) -> bool:
        # What `setup.py develop` leaves at the root is the installed package's metadata, of which there is no other.
        return not inside and entry.name.endswith(".egg-info")

    def _link(self, link: str, path: str, is_folder: bool) -> list[tuple[str, str]]:
        real, root = os.path.realpath(link), os.path.realpath(self.tree.root)
        if not os.path.exists(real) or is_secret(os.path.basename(real), is_folder=is_folder):
            return []
        if real.startswith(f"{root}/"):
            self.links[path] = real[len(root) + 1 :]
        elif not is_folder:
            self.files[path] = link
        elif not is_too_wide(real) and not f"{root}/".startswith(f"{real}/"):
            return [(link, path)]
        return []

    def _settle_links(self) -> None:
        """Keep the links whose target goes along; the others get its content, if it is a file."""
        places = {*self.files, *self.links}
        folders = {parent for path in places for parent in _parents(path)}
        for path, target in list(self.links.items()):
            if target in self.files or target in folders:
                self.links[path] = os.path.relpath(target, os.path.dirname(path) or ".")
            else:
                del self.links[path]
                if os.path.isfile(f"{self.tree.root}/{target}"):
                    self.files[path] = f"{self.tree.root}/{target}"

    def _file(self, path: str, relative: str) -> None:
        if os.path.isfile(path):
            self.files[relative] = path

    def _extra(self, start: str) -> None:
        """Take what was asked for by name, whatever the rules say of it."""
        relative = start[len(self.tree.root) + 1 :]
        if not os.path.isdir(start):
            self._file(start, relative)
            return
        for folder, inner, names in os.walk(start):
            inner[:] = [name for name in inner if name != "__pycache__"]
            self.folders.append(folder)
            for name in names:
                source = f"{folder}/{name}"
                if os.path.isfile(source):
                    self.files[source[len(self.tree.root) + 1 :]] = source


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ImageError(
            f"scan: the folder {folder} cannot be read ({error.strerror}), so no machine can get it: make it readable, "
            "or leave it out by a line in .bigmachineignore"
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that goes in a circle


def _parents(path: str) -> Iterable[str]:
    parent = os.path.dirname(path)
    while parent:
        yield parent
        parent = os.path.dirname(parent)


def scan_tree(
    tree: Tree,
    mount: str,
    cache_dir: Path | None,
    *,
    exclude: Sequence[str] = (),
    distrusted: Collection[str] = (),
) -> Placed:
    """Return a folder, or a single file, as a layer at `mount`.

    Raises:
        ImageError: A file or folder cannot be read.
    """
    cache = ScanCache(cache_dir, "\0".join((tree.root, tree.inside, *(tree.only or ()))))
    key = (mount, tree.inside, tree.only, tree.extra, tuple(exclude))
    base, scheme = f"{tree.root}/", f"{tree.inside}/" if tree.inside else ""
    if not distrusted and (kept := cache.holds("tree", key)) is not None:
        placed = Placed.of_plain(kept[1], kept[0], base, scheme)
        _tell_if_big(tree.root, placed)
        return placed
    walk = Walk(tree, exclude)
    found = Found(cache.before("tree"), distrusted)
    for path, source in walk.files.items():
        found.add(f"{scheme}{path}", source)
    links = [(File(f"{scheme}{path}", "", 0, link=to), f"{tree.root}/{path}") for path, to in walk.links.items()]
    placed = place("tree", tree.name, [*found.files, *links], mount=mount)
    cache.put("tree", key, [*placed.sources, *walk.folders, *walk.ignored.read], placed.plain(base, scheme))
    cache.save()
    for secret in walk.ignored.secrets:
        _log.info("%s stays here, since its name is one of secrets", secret)
    _tell_if_big(tree.root, placed)
    return placed


def _tell_if_big(root: str, placed: Placed) -> None:
    layer = placed.layer
    if layer.size <= BIG_BYTES and len(layer.files) <= BIG_FILES:
        return
    biggest = biggest_folders(layer.files)
    listed = "; ".join(f"{folder} ({size / 1e6:.1f} MB, {count} files)" for folder, size, count in biggest)
    _log.warning(
        "%s goes to the machines with %d files, %.0f MB. Leave out what they do not need, by lines in "
        ".bigmachineignore. The biggest folders: %s",
        root,
        len(layer.files),
        layer.size / 1e6,
        listed or "none, the files lie in it directly",
    )


def biggest_folders(files: Iterable[File]) -> list[tuple[str, int, int]]:
    """Return up to ten folders, none inside of another, with their bytes and counts of files, the biggest first.

    A folder stands for itself where the biggest ones in it do not explain what it has; otherwise those stand for it.
    """
    sums: dict[str, tuple[int, int]] = {}
    inner: dict[str, set[str]] = {}
    for file in files:
        for folder in _parents(file.path):
            size, count = sums.get(folder, (0, 0))
            sums[folder] = size + file.size, count + 1
            inner.setdefault(os.path.dirname(folder), set()).add(folder)

    def weight(folder: str) -> float:
        return sums[folder][0] / BIG_BYTES + sums[folder][1] / BIG_FILES

    def biggest(folders: Iterable[str]) -> list[str]:
        return sorted(folders, key=lambda folder: (-weight(folder), folder))[:_LISTED]

    listed: list[str] = []
    waiting = biggest(inner.get("", ()))
    while waiting and len(waiting) + len(listed) <= _LISTED:
        folder = waiting.pop(0)
        parts = biggest(inner.get(folder, ()))
        if parts and sum(map(weight, parts)) >= _EXPLAINED * weight(folder):
            waiting = biggest((*waiting, *parts))
        else:
            listed.append(folder)
    return [(folder, *sums[folder]) for folder in biggest((*listed, *waiting))]


def single_file(path: str, mount: str, cache_dir: Path | None, distrusted: Collection[str] = ()) -> Placed:
    """Return one file (a zip archive on the search path, an extra file) as a layer of its own.

    Raises:
        ImageError: It cannot be read, or is no file.
    """
    tree = Tree(os.path.dirname(path), safe_name(path), only=(path,))
    if not os.path.isfile(path):
        raise ImageError(f"scan: {path} is no file that could be sent, or not there: name files and folders that are")
    return scan_tree(tree, mount, cache_dir, distrusted=distrusted)


__all__ = [
    "BIG_BYTES",
    "BIG_FILES",
    "Tree",
    "Walk",
    "biggest_folders",
    "is_too_wide",
    "project_root",
    "safe_name",
    "scan_tree",
    "single_file",
]
