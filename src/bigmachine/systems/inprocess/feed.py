"""The events of the machines in this process, for whoever reads the agent's stream of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

from bigmachine.agent import Event


class EventFeed:
    """Numbers events and keeps them until they are acknowledged; on the reactor's thread."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._last = 0
        self._news = asyncio.Event()

    def put(self, make: Callable[[int], Event]) -> None:
        """Add the event that `make(number)` gives."""
        self._last += 1
        self._events.append(make(self._last))
        news, self._news = self._news, asyncio.Event()
        news.set()

    def acknowledge(self, cursor: int) -> None:
        """Drop the events up to `cursor`."""
        while self._events and self._events[0].seq <= cursor:
            self._events.popleft()

    async def read(self, cursor: int) -> AsyncGenerator[Event, None]:
        """Give every event after `cursor`, and those to come."""
        while True:
            news = self._news
            for event in [event for event in self._events if event.seq > cursor]:
                cursor = event.seq
                yield event
            if self._news is news:
                await news.wait()
