"""Every file below a folder, from the last listing where the folders are unchanged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property

from bigmachine.errors import ImageError
from bigmachine.image.manifest import BYTE_CODE_FOLDER
from bigmachine.image.scan.cache import ScanCache, states


class Listing:
    """The files below a folder. `is_new`: they are not those of the last scan."""

    def __init__(self, root: str, names: dict[str, str], is_new: bool) -> None:
        self.root = root
        self.is_new = is_new
        self._names = names  # of each folder's files, joined by NUL

    @cached_property
    def folders(self) -> list[str]:
        """The names of the root's folders."""
        start = len(self.root) + 1
        return [folder[start:] for folder in self._names if folder.rfind("/") == start - 1]

    def names(self, folder: str = "") -> tuple[str, ...]:
        """Return the names of the files in a folder of the root, or in the root itself."""
        return _split(self._names.get(f"{self.root}/{folder}" if folder else self.root, ""))

    def files(self) -> Iterator[str]:
        """Give the paths of all files."""
        for folder, joined in self._names.items():
            for name in _split(joined):
                yield f"{folder}/{name}"


def listing(root: str, cache: ScanCache) -> Listing:
    """List the files below a site-packages directory. Links are followed; byte code is passed over.

    Raises:
        ImageError: if a folder cannot be read.
    """
    if (kept := cache.holds("listing", ())) is not None:
        watched, packed = kept
        return Listing(root, {folder: files for folder, (files, _) in zip(watched, packed, strict=True)}, False)
    known = _still_known(cache)
    folders: dict[str, tuple[str, ...]] = {}
    waiting, walked = [root], {os.path.realpath(root)}
    below: dict[str, tuple[str, ...]] = {}
    while waiting:
        folder = waiting.pop()
        names, inner = known.get(folder) or _read(folder)
        folders[folder], below[folder] = names, inner
        for name in inner:
            path = f"{folder}/{name}"
            if os.path.islink(path):
                real = os.path.realpath(path)
                if real in walked or f"{root}/".startswith(f"{real}/"):
                    continue  # around in a circle
                walked.add(real)
            waiting.append(path)
    order = list(folders)
    packed = tuple(("\0".join(folders[each]), "\0".join(below[each])) for each in order)
    cache.put("listing", (), order, packed)
    return Listing(root, {folder: "\0".join(names) for folder, names in folders.items()}, True)


def _split(joined: str) -> tuple[str, ...]:
    return tuple(joined.split("\0")) if joined else ()


def _still_known(cache: ScanCache) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    before = cache.before("listing")
    if before is None:
        return {}
    watched, known, packed = before
    current = states("\0".join(watched), cache.root)
    return {
        folder: (_split(files), _split(inner))
        for folder, was, now, (files, inner) in zip(watched, known, current, packed, strict=True)
        if was == now
    }


def _read(folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    if entry.name != BYTE_CODE_FOLDER:
                        folders.append(entry.name)
                elif entry.is_file():  # no socket, no device, no dangling link
                    files.append(entry.name)
    except FileNotFoundError:
        pass  # it went away just now
    except OSError as error:
        raise ImageError(f"scan: the folder {folder} cannot be read ({error.strerror}): make it readable") from error
    return tuple(sorted(files)), tuple(sorted(folders))


__all__ = ["Listing", "listing"]
