"""Programs and libraries of Linux made fit to lie somewhere else: without symbols, and finding what they need.

Where the loader looks for a library is written into the program, as an absolute path or not at all. What makes an
interpreter movable is one entry, DT_RPATH, with a path relative to the program itself (`$ORIGIN`): the loader then
looks there for everything that the program or any of its libraries needs, unless the library has a DT_RUNPATH, the
entry's successor, which is looked at for that library alone. So the program gets a DT_RPATH, and its libraries lose
their DT_RUNPATH. Programs that it starts see nothing of this, as they would of LD_LIBRARY_PATH.

No file grows, as that would move its parts. The entry takes the place of the one that was there, or of a spare one,
which linkers leave at the end of the table (`ld`: five), or of DT_DEBUG, which only debuggers read. The path takes the
place of the old one, or of the build id: 20 bytes that are loaded with the program and that nothing else needs. An
offset from the string table reaches it, also backwards, since the loader adds without looking.

The format: the System V ABI, chapters 4 and 5; elf(5); ld.so(8) for the order of the search.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Final

from bigmachine.frozen import frozen

_LOAD, _DYNAMIC, _NOTE = 1, 2, 4
_NULL, _NEEDED, _STRTAB, _RPATH, _DEBUG, _RUNPATH = 0, 1, 5, 15, 21, 29
_BUILD_ID: Final = 3
_PAIR: Final = struct.Struct("<qQ")
_STRIP_TIMEOUT: Final = 60.0


class NotMovable(ValueError):
    """The file has no room for the path."""


def stripped(content: bytes) -> bytes:
    """Return an ELF file without the symbols that only linkers and debuggers read; as it is if that cannot be done."""
    program = shutil.which("strip")
    if program is None or not content.startswith(b"\x7fELF"):
        return content
    with tempfile.TemporaryDirectory(prefix="bigmachine-") as folder:
        path = os.path.join(folder, "file")
        with open(path, "wb") as file:
            file.write(content)
        try:
            subprocess.run([program, "--strip-unneeded", path], check=True, capture_output=True, timeout=_STRIP_TIMEOUT)
        except (OSError, subprocess.SubprocessError):
            return content  # not a kind that it knows
        with open(path, "rb") as file:
            return file.read()


def with_rpath(content: bytes, rpath: str) -> bytes:
    """Return a program that looks for all libraries at `rpath` first.

    Raises:
        NotMovable: if it has no room for that, or is no 64-bit little-endian ELF file.
    """
    elf = _Elf.read(content)
    if elf is None:
        raise NotMovable("it is no program for 64-bit Linux")
    data = bytearray(content)
    wanted = rpath.encode() + b"\0"
    entries = list(elf.entries(content))
    strings = next((value for _, tag, value in entries if tag == _STRTAB), None)
    if strings is None:
        raise NotMovable("it has no string table")
    slot, text = None, None
    for at, tag, value in entries:
        if tag in (_RPATH, _RUNPATH):
            start = elf.offset(strings + value)
            slot = at
            if content.index(b"\0", start) - start >= len(rpath):
                text = strings + value
    slot = slot if slot is not None else _free_slot(entries)
    text = text if text is not None else elf.build_id(content, len(wanted))
    start = elf.offset(text)
    data[start : start + len(wanted)] = wanted
    _PAIR.pack_into(data, slot, _RPATH, (text - strings) % 2**64)
    return bytes(data)


def without_runpath(content: bytes) -> bytes:
    """Return a library that looks where the program that loads it looks; whatever else it is, as it is."""
    elf = _Elf.read(content)
    if elf is None:
        return content
    data = bytearray(content)
    for at, tag, _ in elf.entries(content):
        if tag in (_RPATH, _RUNPATH):
            _PAIR.pack_into(data, at, _RPATH, 0)  # the empty string, with which every string table begins
    return bytes(data)


def _free_slot(entries: list[tuple[int, int, int]]) -> int:
    nulls = [at for at, tag, _ in entries if tag == _NULL]
    if len(nulls) > 1:  # the last one stays: it ends the table
        return nulls[0]
    for at, tag, _ in entries:
        if tag == _DEBUG:
            return at
    raise NotMovable("it has no spare entry in its dynamic section")


@frozen
class _Elf:
    """The segments of a 64-bit little-endian file: kind, offset, address, size in the file."""

    segments: tuple[tuple[int, int, int, int], ...]

    @classmethod
    def read(cls, content: bytes) -> _Elf | None:
        if content[:6] != b"\x7fELF\x02\x01":
            return None
        try:
            (start,) = struct.unpack_from("<Q", content, 32)
            size, count = struct.unpack_from("<HH", content, 54)
            found = []
            for number in range(count):
                kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", content, start + number * size)
                found.append((kind, offset, address, length))
        except struct.error:
            return None
        return cls(tuple(found))

    def offset(self, address: int) -> int:
        """Say where in the file an address is loaded from."""
        for kind, offset, start, size in self.segments:
            if kind == _LOAD and start <= address < start + size:
                return address - start + offset
        raise NotMovable("its tables lead out of the file")

    def entries(self, content: bytes) -> Iterator[tuple[int, int, int]]:
        """Yield the dynamic section: position in the file, tag, value."""
        for kind, offset, _, size in self.segments:
            if kind == _DYNAMIC:
                for at in range(offset, offset + size, _PAIR.size):
                    tag, value = _PAIR.unpack_from(content, at)
                    yield at, int(tag), int(value)

    def build_id(self, content: bytes, room: int) -> int:
        """Return the address of the build id, if it is as long as `room` or longer."""
        for kind, offset, address, size in self.segments:
            at = 0
            while kind == _NOTE and at + 12 <= size:
                name, length, note = struct.unpack_from("<III", content, offset + at)
                body = at + 12 + (name + 3) // 4 * 4
                if note == _BUILD_ID and content[offset + at + 12 : offset + at + 16] == b"GNU\0" and length >= room:
                    return int(address + body)
                at = body + (length + 3) // 4 * 4
        raise NotMovable("it has no build id in whose place a path could be written")


__all__ = ["NotMovable", "stripped", "with_rpath", "without_runpath"]
