"""Connections within a process: the same frames, carried by the event loop instead of a socket.

For the `inprocess` System and for tests. Everything above the transport is what runs over TLS: values are pickled,
calls are cancelled and lost in the same way. The peer is who the maker says, for there is nobody else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from bigmachine.errors import NetworkError
from bigmachine.rpc.connection import Connection, Receiver
from bigmachine.rpc.reactor import Reactor
from bigmachine.rpc.server import Server
from bigmachine.trust import Peer

_HIGH_WATER = 1024 * 1024


class _Pipe(asyncio.Transport):
    """One direction of a pair, and its end of the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._data: deque[bytes | memoryview] = deque()
        self._held = 0
        self._is_scheduled = False
        self._is_reading = True
        self._is_closing = False
        self.other: _Pipe
        self.protocol: Connection

    def write(self, data: Any) -> None:
        if self._is_closing:
            return
        self._data.append(data if isinstance(data, bytes) else memoryview(data))
        self._held += len(data)
        if self._held > _HIGH_WATER and self.protocol.is_writable:
            self.protocol.pause_writing()
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled and self.other._is_reading and self._data:
            self._is_scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_scheduled = False
        reader = self.other.protocol
        while self._data and self.other._is_reading and not self.other._is_closing:
            piece = memoryview(self._data.popleft())
            self._held -= len(piece)
            while piece:
                buffer = reader.get_buffer(-1)
                count = min(len(buffer), len(piece))
                buffer[:count] = piece[:count]
                piece = piece[count:]
                reader.buffer_updated(count)
        if not self.protocol.is_writable and self._held <= _HIGH_WATER // 2 and not self._is_closing:
            self.protocol.resume_writing()

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self.other._schedule()

    def is_closing(self) -> bool:
        return self._is_closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing to set: the limit is fixed."""

    def close(self) -> None:
        # Not here: whoever closes may be in the middle of frames that lie in the receive buffer of both ends.
        self._loop.call_soon(self._close)

    def _close(self) -> None:
        if not self._is_closing:
            self._deliver()
            self.abort()

    def abort(self) -> None:
        for end in (self, self.other):
            if not end._is_closing:
                end._is_closing = True
                end._data.clear()
                self._loop.call_soon(end.protocol.connection_lost, None)


class MemoryDialer:
    """Reaches a server of this process; `server` is None once it is gone."""

    def __init__(self, server: Server | None, peer: Peer, name: str) -> None:
        self.server = server
        self._peer = peer
        self._name = name

    async def dial(self, reactor: Reactor, receiver: Receiver) -> Connection:
        server = self.server
        if server is None:
            raise NetworkError(f"{self._name} is not there any more")
        here, there = _Pipe(reactor.loop), _Pipe(reactor.loop)
        here.other, there.other = there, here
        here.protocol = Connection(reactor, receiver)
        channel = server.channel(self._peer)
        there.protocol = Connection(server.reactor, channel)
        channel.main = there.protocol
        here.protocol.connection_made(here)
        there.protocol.connection_made(there)
        return here.protocol
