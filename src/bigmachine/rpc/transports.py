"""Transports: TLS on a connected socket, by whatever carries the bytes best.

That is `aiofastnet` where it is installed (the extra `[fast]`), otherwise the event loop itself: the same code above.
What each does with a socket when it gives up is made the same here: it is closed, once.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

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
    making = loop.create_task(loop.create_connection(factory, sock=sock, **options))

    def is_over(making: asyncio.Task[tuple[asyncio.Transport, asyncio.BaseProtocol]]) -> None:
        if making.cancelled() or making.exception() is not None:
            # uvloop (0.23) has closed it, or will; one that is cut before its first bytes are away by number. Then the
            # socket object would close the same number once more, another file's by then; if that is a connection,
            # libuv ends the process (SIGABRT).
            sock.detach()

    def give_up() -> None:
        if not making.cancel() and not making.cancelled() and making.exception() is None:
            making.result()[0].abort()

    making.add_done_callback(is_over)
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        # Cancelled in its first two turns, uvloop closes the connection under its TLS and tells nobody: if the
        # handshake is done by then, the protocol believes in the connection for ever, and an error is logged.
        _after_turns(loop, _FIRST_TURNS, give_up)
        raise


def _after_turns(loop: asyncio.AbstractEventLoop, count: int, do: Callable[[], object]) -> None:
    if count:
        loop.call_soon(_after_turns, loop, count - 1, do)
    else:
        do()
