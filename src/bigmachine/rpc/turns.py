"""Turns for the other threads while much is carried.

An event loop that carries something large never rests: whenever it lets go of the interpreter lock, between two
callbacks, it has it again before whoever waits for it is on its feet. On the loop's own core the operating system lets
a thread that has just waited run at its next tick, 4 ms later; elsewhere it finds the lock taken again. A small call
beside 64 MiB arrays took that long, one in a hundred, in its caller's thread and in its method's. So after each piece
the loop steps back until others that are ready have run (`sched_yield`, without the lock): its p99 went from 3.3 to
0.8 ms. When nobody is ready that costs a microsecond, for a piece that takes thirty or more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import Final

#: So many bytes are carried between two turns.
_PIECE: Final = 64 * 1024
#: Who takes longer computes, rather than makes a small call: a loop that stepped back for 5 ms (the interpreter's
#: switch interval) after each piece would carry next to nothing.
_LONG: Final = 0.001
#: After such a turn there is none for so many times as long; that costs the transfer a tenth.
_PAUSE: Final = 8
#: Lets whoever is ready run; there is nothing of the kind on Windows.
STEP_BACK: Final[Callable[[], object] | None] = getattr(os, "sched_yield", None)


class Turns:
    """Gives other threads their turn; for one thread."""

    __slots__ = ("_carried", "_clock", "_not_before", "_step_back")

    def __init__(
        self, step_back: Callable[[], object] | None = STEP_BACK, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._step_back = step_back
        self._clock = clock
        self._carried = 0
        self._not_before = 0.0

    def carried(self, size: int) -> None:
        """Note that so many bytes were read or written, and let others run if it is their turn."""
        self._carried += size
        if self._carried < _PIECE:
            return
        self._carried = 0
        self.give()

    def give(self) -> None:
        """Let others run, if it is their turn."""
        if self._step_back is None:
            return
        begin = self._clock()
        if begin < self._not_before:
            return
        self._step_back()
        end = self._clock()
        took = end - begin
        # Also a crowd of small calls has no more than half of the time.
        self._not_before = end + (took if took < _LONG else took * _PAUSE)
