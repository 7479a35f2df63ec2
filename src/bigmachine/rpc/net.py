"""Connections over TCP and TLS: dialling, and serving by the protocol that the client chose (ALPN).

Third-party and system errors are translated here, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from bigmachine.errors import AuthenticationError, NetworkError
from bigmachine.frozen import frozen
from bigmachine.rpc.connection import Connection, Receiver
from bigmachine.rpc.losses import PeerFull, PeerGone, as_network_error
from bigmachine.rpc.reactor import Reactor
from bigmachine.rpc.transports import make_client, make_server
from bigmachine.rpc.turning_away import has_room, is_want_of_descriptors, turn_away
from bigmachine.trust import WAITING_ALPN, Peer, Refused, Role, check_peer, peer_of, waiting_context

if TYPE_CHECKING:
    from bigmachine.rpc.http.connection import HttpConnection
    from bigmachine.rpc.server import Server

_log = logging.getLogger("bigmachine.rpc")
ALPN = "bigmachine/1"
HANDSHAKE_TIMEOUT = 10.0
#: A connection for one call at a time is probed after 10 s of silence, and given up when the peer acknowledges nothing
#: for 20 s.
_WATCHED = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 20_000}
#: Of what a peer that is refused had to say, so much is read.
_UNREAD = 64 * 1024
#: What a ClientHello has in its list of protocols for a connection that threads wait on; and how much is looked at.
_MARK = bytes((len(WAITING_ALPN),)) + WAITING_ALPN.encode()
_HELLO = 16 * 1024


@frozen
class TlsDialer:
    """Reaches `server_id` at a host and port, and only it: its certificate has to name the id, session and role.

    `path` is a Unix socket to connect to instead, one that a tunnel leads to that port.
    """

    host: str
    port: int
    server_id: str
    session: str
    roles: tuple[Role, ...]
    context: ssl.SSLContext
    connect_timeout: float = 10.0
    handshake_timeout: float = HANDSHAKE_TIMEOUT
    path: str = ""

    @property
    def reaches_threads(self) -> bool:
        """Whether the peer has threads that serve connections: an agent has none."""
        return Role.MACHINE in self.roles

    async def dial(self, reactor: Reactor, receiver: Receiver) -> Connection:
        return await self._dial(reactor, receiver, self.context)

    async def dial_marked(self, reactor: Reactor, receiver: Receiver) -> Connection:
        """Connect with the hint that a thread of the peer's had better serve the connection."""
        connection = await self._dial(reactor, receiver, waiting_context(self.context))
        if not self.path and (sock := connection.extra("socket")) is not None:  # noqa: S610 (nothing of Django)
            _watch(sock)
        return connection

    async def _dial(self, reactor: Reactor, receiver: Receiver, context: ssl.SSLContext) -> Connection:
        where = f"{self.server_id} ({self.host}:{self.port})"
        try:
            async with asyncio.timeout(self.connect_timeout + self.handshake_timeout):
                _, connection = await make_client(
                    reactor.loop,
                    lambda: Connection(reactor, receiver),
                    sock=await self._reached(reactor.loop),
                    ssl=context,
                    server_hostname=self.server_id,
                    ssl_handshake_timeout=self.handshake_timeout,
                )
        except Exception as exc:
            if self.roles == (Role.AGENT,) and "UNRECOGNIZED_NAME" in str(exc):
                # Of a machine its agent can say more, of an agent nobody else can.
                raise PeerGone(f"{where} is not there any more: another agent has its port now") from exc
            raise as_network_error(exc, where) from exc
        shown = _Shown(connection.extra("peercert"))  # noqa: S610 (nothing of Django)
        try:
            check_peer(shown, self.session, self.roles, self.server_id)
        except AuthenticationError:
            connection.abort()
            raise
        if connection.extra("ssl_object").selected_alpn_protocol() != ALPN:  # noqa: S610 (as above)
            connection.abort()
            raise NetworkError(f"{where} does not speak {ALPN}")
        return cast(Connection, connection)

    def dial_blocking(self, *, is_marked: bool = False) -> ssl.SSLSocket:
        """Connect in the calling thread; the socket has the dialler's time-outs.

        `is_marked`: with the hint that a thread of the peer's had better serve it.

        Raises: NetworkError, AuthenticationError.
        """
        where = f"{self.server_id} ({self.host}:{self.port})"
        with contextlib.ExitStack() as opened:
            try:
                sock = opened.enter_context(self._connected())
                sock.settimeout(self.handshake_timeout)
                context = waiting_context(self.context) if is_marked else self.context
                secured = opened.enter_context(context.wrap_socket(sock, server_hostname=self.server_id))
            except Exception as exc:
                raise as_network_error(exc, where) from exc
            check_peer(secured, self.session, self.roles, self.server_id)
            if secured.selected_alpn_protocol() != ALPN:
                raise NetworkError(f"{where} does not speak {ALPN}")
            opened.pop_all()
            return secured

    def _connected(self) -> socket.socket:
        if self.path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(self.connect_timeout)
                sock.connect(self.path)
            except BaseException:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((self.host, self.port), self.connect_timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _watch(sock)
        return sock

    async def _reached(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        """Connect. Not left to `create_connection`, which may be cancelled when the handshake is just done.

        `aiofastnet` 1.2 then closes a socket that it had to connect while its transport still has it in the event
        loop; libuv ends the process (SIGABRT) once the descriptor's number is another one's.
        """
        if self.path:
            return await _connected(loop, socket.AF_UNIX, self.path)
        wrong: OSError | None = None
        for family, address in await self._addresses(loop):
            try:
                return await _connected(loop, family, address)
            except OSError as exc:
                wrong = wrong or exc
        raise wrong or OSError(f"{self.host} has no address")

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> list[tuple[int, Any]]:
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # it is a name, or an address of the other kind
                socket.inet_pton(family, self.host)
                return [(family, (self.host, self.port))]
        found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]


def _watch(sock: socket.socket) -> None:
    """Have TCP find out what something between has forgotten, and a host that is gone: nobody pings here."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _WATCHED.items():
        if (number := getattr(socket, option, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


async def _connected(loop: asyncio.AbstractEventLoop, family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await _establish(loop, sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _establish(loop: asyncio.AbstractEventLoop, sock: socket.socket, address: Any) -> None:
    """Connect a socket. Not by `loop.sock_connect`: uvloop looks up what is an address already, with four threads."""
    try:
        sock.connect(address)
    except BlockingIOError:
        writable = loop.create_future()
        loop.add_writer(sock, _resolve, writable)
        try:
            await writable
        finally:
            loop.remove_writer(sock)
        if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, os.strerror(number)) from None


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


@frozen
class _Shown:
    """A peer's certificate as its transport has decoded it after the handshake; `aiofastnet` takes a file for that."""

    certificate: Mapping[str, object] | None

    def getpeercert(self) -> Mapping[str, object] | None:
        return self.certificate


class _Switch(asyncio.Protocol):
    """Stands at a new connection until the handshake is done, then hands over to the protocol that was agreed on."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        ssl_object = transport.get_extra_info("ssl_object")
        try:
            peer = peer_of(_Shown(transport.get_extra_info("peercert")))
        except AuthenticationError as exc:
            self._server.reactor.complaints.warn("refused", "refused a connection: %s", exc)
            transport.abort()
            return
        protocol = self._protocol(ssl_object.selected_alpn_protocol(), peer)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _protocol(self, alpn: str | None, peer: Peer) -> asyncio.BaseProtocol:
        server = self._server
        if alpn == ALPN:
            channel = server.channel(peer)
            connection = Connection(server.reactor, channel)
            channel.main = connection
            return connection
        http: HttpConnection
        if alpn == "h2":
            from bigmachine.rpc.http.http2 import Http2

            http = Http2(server, peer)
        else:
            from bigmachine.rpc.http.http1 import Http1

            http = Http1(server, peer)
        server.others.add(http)
        return http


async def serve_socket(sock: socket.socket, context: ssl.SSLContext, server: Server) -> None:
    """Do the handshake on an accepted socket, whose bytes are unread, and serve it; returns after the handshake.

    A peer that fails it is dropped: nothing of its bytes is looked at. That it belongs to this session is shown by
    the chain of its certificate, for each session has an authority of its own.
    """
    if not has_room(sock):
        turn_away(sock, server.reactor.complaints)
        return
    try:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does it only for sockets that say they are TCP's; without it a small reply may wait for 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock.dup() as spare:  # the event loop closes its own before the peer is told
            try:
                await make_server(
                    server.reactor.loop,
                    lambda: _Switch(server),
                    sock,
                    ssl=context,
                    ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
                )
            except Refused as exc:
                _tell_why(spare, exc.alert)
                raise
    except (OSError, TimeoutError, EOFError) as exc:
        _log.debug("a connection failed in the handshake: %s", exc)
        if is_want_of_descriptors(exc):
            turn_away(sock, server.reactor.complaints)
        else:
            sock.close()


def serve_waiting(sock: socket.socket, context: ssl.SSLContext, server: Server) -> bool:
    """Have a thread serve an accepted socket, if its client wants that and one can be spared; otherwise False.

    The bytes of the socket, which does not block, are unread, also afterwards if it is False. Nothing is believed
    because of the client's wish: handshake and greeting are the same.
    """
    try:
        if _MARK not in sock.recv(_HELLO, socket.MSG_PEEK):
            return False
    except OSError:  # nothing is there yet, or nobody any more
        return False
    from bigmachine.rpc.waiting.attendant import attend  # most machines are called by threads that wait; agents are not

    return attend(sock, context, server)


def _tell_why(sock: socket.socket, alert: bytes) -> None:
    """Send the alert of a failed handshake, so that the peer need not guess (`aiofastnet` 1.2 keeps it to itself)."""
    with contextlib.suppress(OSError):
        sock.send(alert)
        # Closing with unread bytes resets the connection, and the reset may overtake the alert.
        sock.shutdown(socket.SHUT_WR)
        sock.recv(_UNREAD)


__all__ = [
    "ALPN",
    "HANDSHAKE_TIMEOUT",
    "PeerFull",
    "PeerGone",
    "TlsDialer",
    "as_network_error",
    "serve_socket",
    "serve_waiting",
]
