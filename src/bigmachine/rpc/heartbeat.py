"""Noticing that a connection has gone mute, and replacing it.

While calls or streams wait for something, a link that has been silent for `_BEAT` is pinged; if it stays silent, a new
connection is dialled beside it, and calls that come meanwhile wait, for what is sent over a mute connection has an
unknown outcome. Only when that one stands is the old one given up: a peer that is merely busy, so that it cannot answer
a ping, cannot finish a handshake either, and keeps its calls. After a partition this is faster than TCP, whose
retransmissions leave an old connection mute for more than five seconds after it has healed (`research`: 5 s after a
fault of 4 to 7 s).
"""

from __future__ import annotations

import asyncio
import enum
import time
from typing import Protocol

from bigmachine.rpc.connection import Connection
from bigmachine.rpc.reactor import Reactor
from bigmachine.rpc.wire import PING, small_frame

_BEAT = 1.0
#: A connection attempt that takes longer is begun anew: its first packet may have been lost in the partition.
_DIAL = 3.0


class Next(enum.Enum):
    """What to do at a beat."""

    REST = "rest"
    PING = "ping"
    REPLACE = "replace"


def decide(is_waiting: bool, has_heard: bool, has_pinged: bool) -> Next:
    """Decide at a beat: something is waited for, something was heard since the last beat, a ping is out. Pure."""
    if not is_waiting or has_heard:
        return Next.REST
    return Next.REPLACE if has_pinged else Next.PING


class Patient(Protocol):
    """A link, as its heartbeat sees it."""

    reactor: Reactor
    main: Connection | None

    def is_waiting(self) -> bool: ...

    def bytes_heard(self) -> int: ...

    def doubt(self) -> None: ...

    def believe(self) -> None: ...

    async def replace(self) -> bool: ...


class Heartbeat:
    """Watches one link while it waits for something; on the reactor's thread."""

    def __init__(self, link: Patient) -> None:
        self._link = link
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0
        self._has_pinged = False
        self._replacing: asyncio.Task[object] | None = None
        self.is_on = False
        #: When the peer was last known to be heard, by `time.monotonic`.
        self.heard_at = 0.0

    def start(self) -> None:
        """Begin to watch, if it does not already."""
        if not self.is_on:
            self.is_on = True
            self._heard = self._link.bytes_heard()
            self._has_pinged = False
            self._timer = self._link.reactor.loop.call_later(_BEAT, self._beat)

    def stop(self) -> None:
        """Stop watching."""
        self.is_on = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._replacing is not None:
            self._replacing.cancel()

    def _beat(self) -> None:
        link = self._link
        heard = link.bytes_heard()
        if heard != self._heard:
            self.heard_at = time.monotonic()
        what = decide(link.is_waiting(), heard != self._heard, self._has_pinged)
        self._heard = heard
        self._has_pinged = what is not Next.REST
        if what is Next.PING and link.main is not None:
            link.main.send(small_frame(PING, 0, 0))
        elif what is Next.REST:
            link.believe()
        elif what is Next.REPLACE and self._replacing is None and link.main is not None:
            link.doubt()
            self._replacing = link.reactor.spawn(self._replace(), "replace a mute connection")
        self.is_on = link.is_waiting()
        if self.is_on:
            self._timer = link.reactor.loop.call_later(_BEAT, self._beat)

    async def _replace(self) -> None:
        try:
            async with asyncio.timeout(_DIAL):
                await self._link.replace()
        except TimeoutError:
            pass  # still cut off, or busy: the next beat tries again
        finally:
            self._replacing = None
