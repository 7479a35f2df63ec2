"""How late an event loop comes to what it has to do: what else it was doing meanwhile."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Final

#: Seconds between two looks, and how many are remembered: the last minute's.
_EVERY: Final = 0.5
_KEPT: Final = 120


class Lag:
    """Watches the running event loop, from its first `watch` on."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=_KEPT)
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look from now on; on the loop's thread. Again is once."""
        if self._timer is None:
            self._arm(loop)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + _EVERY
        self._timer = loop.call_at(due, self._look, loop, due)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._late.append(max(0.0, loop.time() - due))
        self._arm(loop)

    @property
    def last(self) -> float:
        """How late it was last, in seconds; not a number before the first look."""
        return self._late[-1] if self._late else math.nan

    @property
    def longest(self) -> float:
        """The latest that it was in the last minute, in seconds; not a number before the first look."""
        return max(self._late, default=math.nan)


__all__ = ["Lag"]
