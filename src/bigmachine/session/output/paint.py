"""Put a machine's name before its lines, in its colour, and keep the colours of programs within their lines. Pure.

Colours that a program switches on stay on until it switches them off, also over several lines, as they would on its
own terminal; at the end of each line they are reset, so they reach neither a name nor another machine's lines. On a
terminal other control sequences are taken out: they would move the cursor of a screen that several machines share.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from typing import Final

_RESET: Final = "\x1b[0m"
#: Next to each other these are easy to tell apart; red is left to errors.
_COLOURS: Final = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")
#: Colours and such (SGR).
_SGR = re.compile(r"\x1b\[([0-9;:]*)m")
#: Control sequences (ECMA-48): CSI, the strings OSC, DCS, SOS, PM, APC, other escapes; and one that was cut off.
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-Z\\-~]|\x1b\[[0-?]*|\x1b"
)
#: Control characters that are no part of a sequence; a tab may stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
#: So many sequences may be on at once; a program that never resets must not make every line longer.
_MOST_ON: Final = 16


def prefix(name: str, *, is_coloured: bool) -> str:
    """Give what stands before a machine's lines."""
    if not is_coloured:
        return f"{name}: "
    digits = re.search(r"\d+$", name)
    number = int(digits[0]) if digits else zlib.crc32(name.encode())
    return f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{name}:{_RESET} "


class Painter:
    """The colours of one stream."""

    def __init__(self) -> None:
        self._on: list[str] = []

    def paint(self, front: str, block: str, *, is_terminal: bool) -> str:
        """Put `front` before each line of a block; every line of it has its newline."""
        if is_terminal:
            block = _CONTROL.sub("", block)
        if "\x1b" in block or self._on:
            return "".join(f"{front}{self._line(line, is_terminal)}\n" for line in block[:-1].split("\n"))
        return f"{front}{block[:-1].replace(chr(10), chr(10) + front)}\n"

    def _line(self, line: str, is_terminal: bool) -> str:
        before = "".join(self._on)
        if is_terminal:
            line = _SEQUENCE.sub(lambda found: found[0] if _SGR.fullmatch(found[0]) else "", line)
        for found in _SGR.finditer(line):
            if found[1].strip("0;") == "":
                self._on.clear()
            else:
                self._on = [*self._on[-_MOST_ON + 1 :], found[0]]
                if found[1].startswith(("0;", ";")):
                    self._on = [found[0]]
        return f"{before}{line}{_RESET}" if self._on else before + line


def plain(text: str) -> str:
    """Take everything out of a text that is not to be seen."""
    return _CONTROL.sub("", _SEQUENCE.sub("", text)).replace("\t", " ")


def fitted(text: str, columns: int) -> str:
    """Cut a plain text to a terminal's columns, of which an East Asian character takes two."""
    if text.isascii():
        return text[:columns]
    for index, character in enumerate(text):
        columns -= _width(character)
        if columns < 0:
            return text[:index]
    return text


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
