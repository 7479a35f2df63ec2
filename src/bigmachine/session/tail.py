"""What machines write from now on, for one who follows it on the session's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from typing import Final

from bigmachine.session.output.recent import Piece

#: Characters that wait for one who does not take them; then the oldest are dropped, and their number is told.
_WAITING: Final = 2**20


class Tail:
    """Takes what machines write, and gives it as lines. Made on the loop.

    `names`: of these machines, and `stream`: to this stream; of all and to all if they are empty.
    """

    def __init__(self, names: Collection[str] = (), stream: str = "") -> None:
        self._names = frozenset(names)
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._pieces: deque[Piece] = deque()
        self._size = 0
        self._dropped = 0
        self._has_come = asyncio.Event()
        self._is_over = False

    def wants(self, machine: str, stream: str) -> bool:
        """Whether what this machine writes there is wanted."""
        return (not self._names or machine in self._names) and self._stream in ("", stream)

    def note(self, machine: str, stream: str, block: str) -> None:
        """Take whole lines; on the output's thread."""
        if not self.wants(machine, stream):
            return
        with self._lock:
            was_empty = not self._pieces
            self._pieces.append(Piece(time.time(), machine, stream, block))
            self._size += len(block)
            while self._size > _WAITING and len(self._pieces) > 1:
                piece = self._pieces.popleft()
                self._size -= len(piece.block)
                self._dropped += piece.block.count("\n")
        if was_empty:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._has_come.set)

    def finish(self) -> None:
        """Say that nothing more will come; on the loop."""
        self._is_over = True
        self._has_come.set()

    async def next(self) -> list[dict[str, object]]:
        """Wait for lines; none: nothing more will come.

        `{"dropped": n}` among them: so many before were lost, as they were not taken in time.
        """
        await self._has_come.wait()
        if not self._is_over:
            self._has_come.clear()
        with self._lock:
            pieces, self._pieces = self._pieces, deque()
            dropped, self._dropped, self._size = self._dropped, 0, 0
        lines: list[dict[str, object]] = [{"dropped": dropped}] if dropped else []
        return lines + [line for piece in pieces for line in lines_of(piece)]


def lines_of(piece: Piece) -> Iterator[dict[str, object]]:
    """Give the lines of a piece, as JSON has them."""
    for text in piece.block.removesuffix("\n").split("\n"):
        yield {"at": round(piece.at, 3), "machine": piece.machine, "stream": piece.stream, "text": text}


__all__ = ["Tail", "lines_of"]
