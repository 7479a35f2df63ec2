"""What machines wrote last, all of them together, for whoever asks later. Bounded, whatever they write."""

from __future__ import annotations

from collections import deque
from typing import Final

#: Characters that are kept, and pieces, each with whole lines.
KEPT: Final = 512 * 1024
_PIECES: Final = 10_000


class Piece:
    """Whole lines that a machine wrote at once. `at`: when they came, in seconds since the epoch."""

    # By hand: a NamedTuple takes 0.3 ms to be made, in every driver's start.
    __slots__ = ("at", "block", "machine", "stream")

    def __init__(self, at: float, machine: str, stream: str, block: str) -> None:
        self.at = at
        self.machine = machine
        self.stream = stream
        self.block = block


class Recent:
    """Keeps the last pieces."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._size = 0
        self._pieces: deque[Piece] = deque()

    def add(self, piece: Piece) -> None:
        """Keep a piece, and let go of the oldest ones where it gets too much."""
        if len(piece.block) > self._kept // 4:
            end = piece.block[-self._kept // 4 :]
            piece = Piece(piece.at, piece.machine, piece.stream, end.partition("\n")[2] or end)
        self._pieces.append(piece)
        self._size += len(piece.block)
        while self._size > self._kept or len(self._pieces) > _PIECES:
            self._size -= len(self._pieces.popleft().block)

    def pieces(self) -> list[Piece]:
        """Give what is kept, the oldest first."""
        return list(self._pieces)


__all__ = ["KEPT", "Piece", "Recent"]
