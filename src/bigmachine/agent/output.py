"""Keep the last lines of a machine's output, for its death certificate.

The bytes come as they were written, cut anywhere, from two streams; only the tail is of interest, and no input may
make it grow: not a line without an end, not a progress bar that never writes a newline, not bytes that are no UTF-8.
A carriage return rewrites its line, so of such a line the last version counts, as a terminal would show it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

#: The certificate carries this many lines.
MAX_LINES: Final = 100
#: A longer line is cut here; what it was about usually stands at its start.
MAX_LINE: Final = 2048
#: All lines together, in characters.
MAX_TOTAL: Final = 64 * 1024


class LastLines:
    """The last lines of several streams, in the order in which the lines were completed."""

    def __init__(self, lines: int = MAX_LINES, total: int = MAX_TOTAL) -> None:
        self._most = lines
        self._limit = total
        self._lines: deque[str] = deque()
        self._total = 0
        self._open: dict[str, _Line] = {}

    def feed(self, stream: str, data: bytes) -> None:
        """Take what `stream` wrote."""
        # A burst of 64 KiB can hold thousands of lines: those before the last `most` need not be looked at.
        pieces = data.rsplit(b"\n", self._most + 1)
        line = self._open.setdefault(stream, _Line())
        if len(pieces) == self._most + 2:
            line.clear()
            del pieces[0]
        for piece in pieces[:-1]:
            line.add(piece)
            self._keep(line.text())
            line.clear()
        line.add(pieces[-1])

    def lines(self) -> tuple[str, ...]:
        """Give the lines, with those that have not ended yet at the end."""
        unended = [line.text() for line in self._open.values() if line]
        return (*self._lines, *unended)[-self._most :]

    def _keep(self, text: str) -> None:
        self._lines.append(text)
        self._total += len(text)
        while len(self._lines) > self._most or self._total > self._limit:
            self._total -= len(self._lines.popleft())


class _Line:
    """A line that has not ended: its first `MAX_LINE` bytes since the last carriage return.

    A return means that what follows rewrites the line, so it takes effect only when something follows: the return in
    front of a newline does nothing.
    """

    def __init__(self) -> None:
        self.clear()

    def __bool__(self) -> bool:
        return bool(self._head)

    def clear(self) -> None:
        self._head, self._cut, self._is_returned = b"", 0, False

    def add(self, data: bytes) -> None:
        written = data.rstrip(b"\r")
        if written:
            _, found, last = written.rpartition(b"\r")
            if found or self._is_returned:
                self.clear()
            room = MAX_LINE - len(self._head)
            self._head += last[:room]
            self._cut += max(0, len(last) - room)
        self._is_returned = self._is_returned or len(written) < len(data)

    def text(self) -> str:
        text = self._head.decode("utf-8", "replace")
        return f"{text}... ({self._cut} bytes more)" if self._cut else text


__all__ = ["MAX_LINE", "MAX_LINES", "MAX_TOTAL", "LastLines"]
