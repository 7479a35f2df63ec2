"""Share a host's processors among the samplers of its machines, so that looking at many at once does not stop them.

A sample costs py-spy a third of a millisecond, and its start 50 ms. A hundred samples a second of each of 64 machines
would so take more than two processors: on a small host there would be nothing left for the machines, nor for the agent,
which could not answer its keepalives and be given up, with all machines. So together they take at most `_PER_CPU`
samples a second for each processor, and they start one after the other, with time in between for everything else:
starting a process stops the event loop until that has been given a processor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

#: About a sixth of a processor. One machine alone is sampled as often as somebody wants.
_PER_CPU: Final = 500
#: Those who ask at once are counted before the first of them starts.
_TOGETHER: Final = 0.02
#: Between two starts, at least; and at most for as long as a start takes.
_GAP: Final = 0.01
_LONGEST_GAP: Final = 0.2


class Samplers:
    """Those who look into machines of one host at the moment. On its event loop."""

    def __init__(self, cpus: float | None = None) -> None:
        if cpus is None:
            from bigmachine.observe.limits import usable_cpus

            cpus = usable_cpus()
        self._allowed = max(1.0, _PER_CPU * cpus)
        self._count = 0
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def one(self, hertz: int) -> AsyncIterator[int]:
        """Surround one sampling; gives how often it may sample in a second: as wanted, or less, if many do."""
        self._count += 1
        try:
            await asyncio.sleep(_TOGETHER)
            yield hertz if self._count == 1 else max(1, min(hertz, int(self._allowed / self._count)))
        finally:
            self._count -= 1

    @asynccontextmanager
    async def start(self) -> AsyncIterator[None]:
        """Surround the start of a process, which must not wait: one at a time, and then the event loop has its turn."""
        await self._turn.acquire()
        begin = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - begin
            # The next one's turn comes later; whoever has started goes on at once.
            asyncio.get_running_loop().call_later(min(max(_GAP, took), _LONGEST_GAP), self._turn.release)


__all__ = ["Samplers"]
