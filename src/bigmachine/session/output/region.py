"""Lines at the bottom of a terminal that stay there and change, while everything else scrolls above them. Pure.

The terminal's scroll region (DECSTBM) is made shorter by so many rows. The cursor stays in it, so whatever the driver
itself prints meanwhile, or a progress bar of its own, scrolls as always and never touches the rows below; drawing
them costs a cursor saved and restored. Each call gives the text of one write, which nobody else's write can cut.

ESC D moves the cursor down and scrolls at the end, but keeps its column, unlike a newline: the driver may have written
half a line. Setting the region moves the cursor, hence saving it around that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_SAVE: Final = "\x1b7"
_RESTORE: Final = "\x1b8"
#: The rows never take more than this part of the terminal, nor more than so many.
_PART: Final = 3
_MOST: Final = 12
#: A terminal with less than this is left alone.
_LEAST_ROWS, _LEAST_COLUMNS = 6, 20


def room(rows: int, columns: int) -> int:
    """Give how many lines a terminal of this size has at its bottom."""
    return 0 if rows < _LEAST_ROWS or columns < _LEAST_COLUMNS else min(rows // _PART, _MOST)


class Region:
    """The rows at the bottom."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._size = (0, 0)

    def draw(self, lines: Sequence[str], rows: int, columns: int) -> str:
        """Give what makes the terminal show these lines, at most `room` of them, each of which fits into a row."""
        lines = lines[: room(rows, columns)]
        text = ""
        if self._lines and self._size != (rows, columns):
            # The terminal has moved what it showed; below the cursor are only our own rows.
            text += f"{_SAVE}\x1b[r{_RESTORE}\x1b[J"
            self._lines = []
        self._size = (rows, columns)
        before = len(self._lines)
        if len(lines) > before:
            more = len(lines) - before
            text += "\x1bD" * more + f"\x1b[{more}A{_SAVE}\x1b[1;{rows - len(lines)}r{_RESTORE}"
            self._lines = [""] * more + self._lines
            changed = range(len(lines))
        elif len(lines) < before:
            cleared = "".join(f"\x1b[{rows - row};1H\x1b[2K" for row in range(before))
            text += f"{_SAVE}{cleared}\x1b[1;{rows - len(lines) if lines else rows}r{_RESTORE}"
            changed = range(len(lines))
        else:
            changed = range(0)
        first = rows - len(lines) + 1
        drawn = "".join(
            f"\x1b[{first + index};1H\x1b[2K{line}"
            for index, line in enumerate(lines)
            if index in changed or line != self._lines[index]
        )
        self._lines = list(lines)
        return f"{text}{_SAVE}{drawn}{_RESTORE}" if drawn else text
