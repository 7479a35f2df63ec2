"""What commands print: for people aligned, coloured on a terminal; for programs JSON."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TextIO

_COLOURS: Final[Mapping[str, str]] = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}
#: What a terminal would obey: machines, hosts and programs are named by others.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: The states of machines, and the colours of them.
STATES: Final[Mapping[str, str]] = {
    "RUNNING": "green",
    "STARTING": "yellow",
    "UNSTARTED": "yellow",
    "STOPPED": "red",
}


def is_coloured(stream: TextIO) -> bool:
    """Tell whether colours are wanted there: a terminal that can, and nobody said NO_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")


def painted(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Colour a text, where that is wanted."""
    if not colour or not is_coloured(stream or sys.stdout):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def plain(text: str) -> str:
    """Take out what a terminal would obey."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def say(text: str = "") -> None:
    """Print a line."""
    write(f"{text}\n")


def write(text: str) -> None:
    """Print; what the terminal's encoding does not know is replaced."""
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def say_json(told: object) -> None:
    """Print a document of JSON."""
    write(json.dumps(_finite(told), indent=2, default=str, ensure_ascii=False) + "\n")


def say_json_line(told: object) -> None:
    """Print an object as one line, at once."""
    write(json.dumps(_finite(told), separators=(",", ":"), default=str, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _finite(told: object) -> object:
    """Put null where a number is none: JSON has no NaN, and only some readers take it."""
    if isinstance(told, float) and not math.isfinite(told):
        return None
    if isinstance(told, Mapping):
        return {key: _finite(value) for key, value in told.items()}
    if isinstance(told, list | tuple):
        return [_finite(value) for value in told]
    return told


def warn(text: str) -> None:
    """Say something beside the output."""
    sys.stderr.write(f"bigmachine: {plain(text)}\n")


def table(
    rows: Iterable[Sequence[str]], heads: Sequence[str] = (), *, indent: str = "", right: Iterable[int] = ()
) -> list[str]:
    """Lay out a table; the last column is as long as it is. `right`: the columns of numbers."""
    cells = [[plain(cell) for cell in row] for row in ([heads, *rows] if heads else rows)]
    if not cells:
        return []
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    numbers = set(right)
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if at in numbers else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"{indent}{'  '.join(parts)}".rstrip())
    return lines


def cut(line: str) -> str:
    """Cut a line to the terminal; elsewhere it is as long as it is."""
    if not sys.stdout.isatty():
        return line
    columns = shutil.get_terminal_size().columns
    return line if len(line) <= columns else f"{line[: columns - 1]}…"


def natural(name: str) -> tuple[str, int, str]:
    """Give what puts m2 before m10."""
    digits = name[len(name.rstrip("0123456789")) :]
    return name.removesuffix(digits), int(digits or 0), name


def ago(seconds: float) -> str:
    """Say how long something took, or how long ago it was, in two parts."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def clock(at: float) -> str:
    """Write a time as people here read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


__all__ = [
    "STATES",
    "ago",
    "clock",
    "cut",
    "is_coloured",
    "natural",
    "painted",
    "plain",
    "say",
    "say_json",
    "say_json_line",
    "table",
    "warn",
    "write",
]
