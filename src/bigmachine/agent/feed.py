"""The events of all machines of one agent, as a stream to the driver: the log, made awaitable.

The pure part, what is kept and when it is full, is `events.EventLog`. Here are the clock, the readers who wait for the
next event, and the brake: `on_full` and `on_room` are called when the log has become full and when it has room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from bigmachine.agent.events import EventLog

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from bigmachine.agent.conversations import Halt
    from bigmachine.agent.events import Event, Notice, StreamName
    from bigmachine.agent.watch.memory import Shortage
    from bigmachine.errors import DeathCertificate


class Feed:
    """Takes events in and lets the driver read them. For one event loop."""

    def __init__(self, log: EventLog | None = None) -> None:
        self.on_full: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None
        self._log = log or EventLog()
        self._news = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._was_full = False
        self._readers = 0

    @property
    def is_full(self) -> bool:
        """Whether no more output should be taken in for now."""
        return self._log.is_full

    @property
    def is_listening(self) -> bool:
        """Whether somebody reads."""
        return self._readers > 0

    def output(self, machine_id: str, stream: StreamName, data: bytes) -> None:
        """Tell what a machine wrote."""
        self._log.output(machine_id, time.time(), stream, data)
        self._changed()

    def phase(self, machine_id: str, phase: str) -> None:
        """Tell that a machine entered a phase."""
        self._log.phase(machine_id, time.time(), phase)
        self._changed()

    def stopped(self, certificate: DeathCertificate, exception: bytes | None, text: str) -> None:
        """Tell a machine's end."""
        self._log.stopped(certificate, time.time(), exception, text)
        self._changed()

    def memory_short(self, shortage: Shortage) -> None:
        """Tell that memory is nearly used up."""
        pool = shortage.pool
        self._log.memory_short(
            shortage.machine, time.time(), pool.name, pool.used, pool.limit, shortage.resident, pool.pressure
        )
        self._changed()

    def dumped(self, machine_id: str, files: tuple[tuple[str, bytes], ...]) -> None:
        """Tell what a machine holds."""
        self._log.dumped(machine_id, time.time(), files)
        self._changed()

    def noticed(self, machine_id: str, notice: Notice) -> None:
        """Tell that a machine's host will be taken back."""
        self._log.noticed(machine_id, time.time(), notice)
        self._changed()

    def halted(self, machine_id: str, halt: Halt) -> None:
        """Tell that a machine's program waits in `breakpoint()`."""
        self._log.halted(machine_id, time.time(), halt)
        self._changed()

    def acknowledge(self, cursor: int) -> None:
        """Drop what the driver has seen."""
        self._log.acknowledge(cursor)
        if self._log.is_settled:
            self._settled.set()
        if self._was_full and not self._log.is_full:
            self._was_full = False
            if self.on_room is not None:
                self.on_room()

    async def read(self, cursor: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the events after `cursor` as they come, without end."""
        self._readers += 1
        try:
            while True:
                events = self._log.after(cursor)
                if not events:
                    self._news.clear()
                    await self._news.wait()
                for event in events:
                    cursor = event.seq
                    yield event
        finally:
            self._readers -= 1

    async def settle(self, patience: float) -> None:
        """Wait until everything is acknowledged, but not longer than `patience`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._settled.wait()

    def _changed(self) -> None:
        self._news.set()
        self._settled.clear()
        if self._log.is_full and not self._was_full:
            self._was_full = True
            if self.on_full is not None:
                self.on_full()


__all__ = ["Feed"]
