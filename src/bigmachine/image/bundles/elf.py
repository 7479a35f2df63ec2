"""Where a shared library of Linux looks for others, as far as it says so relative to itself (`$ORIGIN`).

A wheel that was repaired for distribution finds its libraries beside itself (`$ORIGIN/../numpy.libs`); some find those
of *other* wheels (`$ORIGIN/../../nvidia/cublas/lib`). A layer with one of the second kind must lie among the others as
files, not behind a symbolic link, for the loader resolves `$ORIGIN` physically.

The format: the System V ABI, chapters 4 and 5, and elf(5).
"""

from __future__ import annotations

import mmap
import posixpath
import struct
from collections.abc import Iterable

_DYNAMIC, _LOAD = 2, 1
_STRTAB, _RPATH, _RUNPATH = 5, 15, 29


def search_paths(file: str) -> list[str]:
    """Return the RPATH and RUNPATH entries of an ELF file; none for anything else.

    Raises:
        OSError: if it cannot be read.
    """
    with open(file, "rb") as opened:
        if opened.read(4) != b"\x7fELF":
            return []
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _search_paths(content)
            except (struct.error, IndexError, ValueError):
                return []  # cut off or made up: the loader will not load it either


def _search_paths(content: mmap.mmap) -> list[str]:
    wide, order = content[4] == 2, "<" if content[5] == 1 else ">"
    headers, entry_size, count = _program_headers(content, wide, order)
    loads: list[tuple[int, int, int]] = []
    dynamic: tuple[int, int] | None = None
    for number in range(count):
        kind, offset, address, size = _segment(content, headers + number * entry_size, wide, order)
        if kind == _LOAD:
            loads.append((address, offset, size))
        elif kind == _DYNAMIC:
            dynamic = offset, size
    if dynamic is None:
        return []
    pair = struct.Struct(order + ("qQ" if wide else "iI"))
    entries = list(pair.iter_unpack(content[dynamic[0] : dynamic[0] + dynamic[1] // pair.size * pair.size]))
    table = next((value for tag, value in entries if tag == _STRTAB), None)
    if table is None:
        return []
    start = next(
        (table - address + offset for address, offset, size in loads if address <= table < address + size), table
    )
    found = [_string(content, start + value) for tag, value in entries if tag in (_RPATH, _RUNPATH)]
    return [entry for joined in found for entry in joined.split(":") if entry]


def _program_headers(content: mmap.mmap, wide: bool, order: str) -> tuple[int, int, int]:
    (offset,) = struct.unpack_from(order + ("Q" if wide else "I"), content, 32 if wide else 28)
    entry_size, count = struct.unpack_from(order + "HH", content, 54 if wide else 42)
    return offset, entry_size, count


def _segment(content: mmap.mmap, at: int, wide: bool, order: str) -> tuple[int, int, int, int]:
    if wide:
        kind, _, offset, address, _, size = struct.unpack_from(order + "IIQQQQ", content, at)
    else:
        kind, offset, address, _, size = struct.unpack_from(order + "IIIII", content, at)
    return kind, offset, address, size


def _string(content: mmap.mmap, start: int) -> str:
    end = content.find(b"\0", start)
    return content[start : max(end, start)].decode("utf-8", "surrogateescape")


def leaves(path: str, entries: Iterable[str], folders: frozenset[str]) -> bool:
    """Whether a library at `path` of a layer, with these search paths, looks for others outside of the layer.

    `folders` are all the layer's folders.
    """
    for entry in entries:
        for origin in ("$ORIGIN", "${ORIGIN}"):
            if entry.startswith(origin):
                place = posixpath.normpath(posixpath.dirname(path) + entry[len(origin) :])
                if place not in folders or "/" not in place:  # all packages lie in site-packages
                    return True
    return False


def folders_of(paths: Iterable[str]) -> frozenset[str]:
    """Return every folder that has one of these paths in it, at any depth."""
    found: set[str] = set()
    for path in paths:
        folder = posixpath.dirname(path)
        while folder and folder not in found:
            found.add(folder)
            folder = posixpath.dirname(folder)
    return frozenset(found)


__all__ = ["folders_of", "leaves", "search_paths"]
