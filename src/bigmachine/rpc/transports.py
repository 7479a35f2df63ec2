"""Transports: TLS on a connected socket, by whatever carries the bytes best.

That is `aiofastnet` where it is installed (the extra `[fast]`), otherwise the event loop itself: the same code above.
What each does with a socket when it gives up is made the same here: it is closed, once.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any, TypeAlias, cast

_Made: TypeAlias = tuple[asyncio.BaseTransport, asyncio.BaseProtocol]
_Factory: TypeAlias = Callable[[], asyncio.BaseProtocol]
#: uvloop is past what must not be cancelled after so many turns of the loop.
_FIRST_TURNS = 3


def warm_up() -> None:
    """Load what carries the first connection, before there is one: 10 ms that are free while others are waited for."""
    _has_aiofastnet()


def _has_aiofastnet() -> bool:
    try:
        import aiofastnet  # noqa: F401 (it is loaded once it is asked for)
    except ImportError:
        return False
    return True


async def make_client(
    loop: asyncio.AbstractEventLoop, factory: _Factory, sock: socket.socket, **options: Any
) -> tuple[asyncio.BaseTransport, Any]:
    """Do a client's handshake, and return the transport and its protocol; the options are `create_connection`'s.

    The socket is the transport's from now on, also if none comes of it.
    """
    if _has_aiofastnet():
        return await _by_aiofastnet(loop, factory, sock, **options)
    if (uvloop := sys.modules.get("uvloop")) is not None and isinstance(loop, uvloop.Loop):
        return await _by_uvloop(loop, factory, sock, **options)
    return await loop.create_connection(factory, sock=sock, **options)


async def make_server(loop: asyncio.AbstractEventLoop, factory: _Factory, sock: socket.socket, **options: Any) -> _Made:
    """Do a server's handshake on a socket that was accepted; the options are `connect_accepted_socket`'s.

    If it raises, the socket is the caller's to close, which does no harm if that is done already.
    """
    if _has_aiofastnet():
        import aiofastnet

        made: _Made = await aiofastnet.connect_accepted_socket(loop, factory, sock, **options)
        return made
    return await loop.connect_accepted_socket(factory, sock, **options)


async def _by_aiofastnet(
    loop: asyncio.AbstractEventLoop, factory: _Factory, sock: socket.socket, **options: Any
) -> _Made:
    import aiofastnet

    gone_on = loop.create_future()
    loop.call_soon(gone_on.set_result, None)
    try:
        made: _Made = await aiofastnet.create_connection(loop, factory, sock=sock, **options)
    except BaseException:
        if not gone_on.done():
            # Cut before its first bytes were away: 1.2 raises before there is a transport that would close it.
            sock.close()
        raise
    return made


async def _by_uvloop(loop: asyncio.AbstractEventLoop, factory: _Factory, sock: socket.socket, **options: Any) -> _Made:
    making = loop.create_task(loop.create_connection(factory, sock=cast(socket.socket, _Number(sock)), **options))

    def give_up() -> None:
        making.add_done_callback(_abort)
        making.cancel()

    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        # Cancelled in its first two turns, uvloop closes the connection under its TLS and tells nobody: if the
        # handshake is done by then, the protocol believes in the connection for ever, and an error is logged.
        _after_turns(loop, _FIRST_TURNS, give_up)
        raise


class _Number:
    """A connected socket, which is its taker's to close once that has asked for its number.

    uvloop (0.23) closes by number, and tells a `socket` object of it only if all goes well. An object that was not
    told (the connection was cut before its first bytes were away, or the loop was closed meanwhile) would close the
    same number once more, another file's by then; if that is a connection, libuv ends the process (SIGABRT).
    """

    type = socket.SOCK_STREAM

    def __init__(self, sock: socket.socket) -> None:
        self.family = sock.family
        self._sock = sock
        self._number = -1

    def fileno(self) -> int:
        if self._number < 0:
            self._number = self._sock.detach()
        return self._number

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(flag)

    def detach(self) -> int:
        return self._number

    def close(self) -> None:
        """Nothing: whoever asked for the number has closed it."""


def _abort(making: asyncio.Task[tuple[asyncio.Transport, asyncio.BaseProtocol]]) -> None:
    """Have no connection, if there came to be one that nobody wants any more; nor does anybody want the error."""
    if not making.cancelled() and making.exception() is None:
        making.result()[0].abort()


def _after_turns(loop: asyncio.AbstractEventLoop, count: int, do: Callable[[], object]) -> None:
    if count:
        loop.call_soon(_after_turns, loop, count - 1, do)
    else:
        do()
