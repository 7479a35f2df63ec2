"""Noticing that a connection has gone mute, and replacing it.

While calls or streams wait for something, a link that has been silent for `_BEAT` is pinged, and calls that come then
wait until the peer is heard, for what is sent over a mute connection has an unknown outcome. If it stays silent, a new
connection is dialled beside it. Only when that one stands is the old one given up: a peer that is merely busy, so that
it cannot answer a ping, cannot finish a handshake either, and keeps its calls. After a partition this is faster than
TCP, whose retransmissions leave an old connection mute for more than five seconds after it has healed (`research`: 5 s
after a fault of 4 to 7 s).

A peer that is heard need not hear: each direction has its own retransmissions, and after a partition the peer's may
come through seconds before this side's. So being heard does not end the doubt while the kernel says that what this side
has sent goes unacknowledged (`is_held_up`). A ping without an answer would not do for that: it may wait behind what is
queued here, its answer behind what the peer streams, and neither is mute. A connection whose peer is heard is given up
only for the sake of calls that wait; without any it may come back by itself. While the peer takes what is queued here,
it is as good as heard: a ping would wait behind that.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
import sys
import time
from typing import Protocol

from bigmachine.rpc.connection import Connection
from bigmachine.rpc.reactor import Reactor
from bigmachine.rpc.wire import PING, small_frame

_BEAT = 1.0
#: A connection attempt that takes longer is begun anew: its first packet may have been lost in the partition.
_DIAL = 3.0
#: So many retransmissions in a row without an acknowledgement, 0.6 s of them at least: a lossy network has one now and
#: then.
_MUTE = 2
#: Of Linux's `struct tcp_info`: retransmissions in a row, bytes that were acknowledged, bytes that were not sent yet.
_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_FIELDS = struct.Struct("=2xB117xQ16xI")


class Next(enum.Enum):
    """What to do at a beat."""

    REST = "rest"
    PING = "ping"
    REPLACE = "replace"


def decide(is_waiting: bool, is_well: bool, has_pinged: bool) -> Next:
    """Decide at a beat: something is waited for, nothing is amiss since the last beat, a ping is out. Pure."""
    if not is_waiting or is_well:
        return Next.REST
    return Next.REPLACE if has_pinged else Next.PING


def is_held_up(connection: Connection) -> bool:
    """Tell whether what was sent is retransmitted in vain; False where that cannot be known."""
    fields = _ask_kernel(connection)
    return fields is not None and fields[0] >= _MUTE


def bytes_taken(connection: Connection) -> int:
    """Return how much the peer has taken, if there is more for it on this side; otherwise 0."""
    fields = _ask_kernel(connection)
    if fields is None:
        return connection.bytes_out if connection.is_queueing else 0
    _, acknowledged, unsent = fields
    return acknowledged if unsent or connection.is_queueing else 0


def _ask_kernel(connection: Connection) -> tuple[int, int, int] | None:
    sock = None if _TCP_INFO is None else connection.extra("socket")  # noqa: S610 (nothing of Django)
    if sock is None:
        return None
    try:
        info: bytes = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _FIELDS.size)
    except OSError:  # no TCP, or closed just now
        return None
    return None if len(info) < _FIELDS.size else _FIELDS.unpack(info)  # an old kernel tells less


class Patient(Protocol):
    """A link, as its heartbeat sees it."""

    reactor: Reactor
    main: Connection | None

    def is_waiting(self) -> bool: ...

    def bytes_heard(self) -> int: ...

    def bytes_taken(self) -> int: ...

    def is_held_up(self) -> bool: ...

    def doubt(self, is_heard: bool = False) -> None: ...

    def believe(self) -> None: ...

    async def replace(self) -> bool: ...


class Heartbeat:
    """Watches one link while it waits for something; on the reactor's thread."""

    def __init__(self, link: Patient) -> None:
        self._link = link
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0
        self._taken = 0
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
            self._taken = self._link.bytes_taken()
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
        heard, taken = link.bytes_heard(), link.bytes_taken()
        is_heard = heard != self._heard
        if is_heard:
            self.heard_at = time.monotonic()
        is_well = (is_heard or taken != self._taken) and not (self._has_pinged and link.is_held_up())
        what = decide(link.is_waiting(), is_well, self._has_pinged)
        self._heard, self._taken = heard, taken
        self._has_pinged = what is not Next.REST
        if what is Next.PING and link.main is not None:
            link.main.send(small_frame(PING, 0, 0))
            link.doubt()
        elif what is Next.REST:
            link.believe()
        elif what is Next.REPLACE and link.main is not None:
            link.doubt(is_heard)
            self.dial()
        self.is_on = link.is_waiting()
        if self.is_on:
            self._timer = link.reactor.loop.call_later(_BEAT, self._beat)

    def dial(self, *, is_anew: bool = False) -> None:
        """Begin to replace a doubted connection; unless that is under way already, or `is_anew` also then."""
        if self._replacing is not None and is_anew:
            self._replacing.cancel()
            self._replacing = None
        if self._replacing is None:
            self._replacing = self._link.reactor.spawn(self._replace(), "replace a mute connection")

    async def _replace(self) -> None:
        try:
            async with asyncio.timeout(_DIAL):
                await self._link.replace()
        except TimeoutError:
            pass  # still cut off, or busy: the next beat tries again
        finally:
            if self._replacing is asyncio.current_task():  # otherwise another attempt has taken this one's place
                self._replacing = None
