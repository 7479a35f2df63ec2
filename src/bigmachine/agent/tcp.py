"""The one TCP port of a host: look whom a connection is for, and give it to that one.

The ClientHello is looked at with MSG_PEEK, so whoever gets the socket finds it untouched and does the handshake with
its own key. A machine's id leads to the machine's process (the descriptor goes over its control socket, and is closed
here); the agent's own id, no name at all, and what is no TLS lead to the agent's own TLS server, which refuses by the
rules of TLS what is not of this session. Any other name is refused at once: nobody of ours may be reached under an id
that is not his, and an id whose machine is gone stays gone.

Strangers can reach this port, so everything before the decision is bounded: its time, its bytes, and how many
connections are undecided at once (the oldest gives way). Running out of descriptors pauses accepting, no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
from typing import TYPE_CHECKING, Final

from bigmachine.agent.hello import MAX_HELLO, NEED_MORE, server_name

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("bigmachine.agent")

#: Within this a client says whom it wants.
HELLO_TIMEOUT: Final = 5.0
#: More connections do not wait for a decision at once.
MAX_UNDECIDED: Final = 256
_BACKLOG: Final = 1024
#: How long accepting rests when there are no descriptors.
_REST: Final = 0.1
#: That is said once in so many seconds: people have to read it.
_COMPLAINTS: Final = 60.0
#: A hello in pieces is looked at again after this, and each time after twice as long.
_FIRST_LOOK: Final = 0.001
_LAST_LOOK: Final = 0.1
#: TLS's own words for "there is nobody of this name here" (RFC 8446 section 6: fatal alert unrecognized_name).
_UNRECOGNIZED: Final = b"\x15\x03\x03\x00\x02\x02\x70"
_HTTP_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT"))
_SAID: Final = b"this port speaks TLS 1.3 only: use https and a client certificate of the session\n"
_TLS_WANTED: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_SAID), _SAID)
)


class FrontDoor:
    """Accepts on a listening socket. `route` gets a name (None: none) and takes a socket, or says False.

    `listening`: a socket that listens already, instead of one at `host` and `port`; it is closed here.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        host: str,
        port: int,
        route: Callable[[str | None, socket.socket], bool],
        *,
        timeout: float = HELLO_TIMEOUT,
        undecided: int = MAX_UNDECIDED,
        listening: socket.socket | None = None,
    ) -> None:
        self._loop = loop
        self._route = route
        self._timeout = timeout
        self._most = undecided
        self._undecided: dict[_Undecided, None] = {}
        self._next_complaint = 0.0
        self._socket = listening or _listen(host, port)
        self._socket.setblocking(False)
        loop.add_reader(self._socket.fileno(), self._accept)

    @property
    def port(self) -> int:
        """The port that it got."""
        port: int = self._socket.getsockname()[1]
        return port

    def close(self) -> None:
        """Accept no more, and drop whoever is undecided."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        for undecided in list(self._undecided):
            undecided.close()

    def _accept(self) -> None:
        for _ in range(_BACKLOG):
            try:
                sock, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                # No descriptors or no memory: those who wait in the backlog are served when there are some again.
                self._complain(error)
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(_REST, self._accept_again)
                return
            self._take(sock)

    def _complain(self, error: OSError) -> None:
        if self._loop.time() >= self._next_complaint:
            self._next_complaint = self._loop.time() + _COMPLAINTS
            _log.warning("no connection can be accepted for now: %s; see `ulimit -n`", error)

    def _accept_again(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._accept)

    def _take(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        # asyncio does it only for a socket that knows its protocol's number, which one from accept() does not; and
        # without it an event that follows another waits for a delayed acknowledgement, 40 ms.
        with contextlib.suppress(OSError):  # gone already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self._undecided) >= self._most:
            next(iter(self._undecided)).close()
        undecided = _Undecided(self._loop, sock, self._timeout, self._decide, self._forget)
        self._undecided[undecided] = None
        undecided.look()

    def _forget(self, undecided: _Undecided) -> None:
        self._undecided.pop(undecided, None)

    def _decide(self, name: str | None, sock: socket.socket) -> None:
        if name is None and _speaks_plain_http(sock):
            _answer_plainly(sock)
        elif not self._route(name, sock):
            _refuse(sock)


class _Undecided:
    """A connection whose client has not said yet whom it wants."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        timeout: float,
        decide: Callable[[str | None, socket.socket], None],
        forget: Callable[[_Undecided], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._decide = decide
        self._forget = forget
        self._pause = _FIRST_LOOK
        self._seen = 0
        self._again: asyncio.TimerHandle | None = None
        self._limit = loop.call_later(timeout, self.close)

    def look(self) -> None:
        """See what has come, and decide if that is enough."""
        self._again = None
        try:
            data = self._sock.recv(MAX_HELLO, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            self._loop.add_reader(self._sock.fileno(), self._readable)
            return
        except OSError:
            self.close()
            return
        name = server_name(data)
        if name is not NEED_MORE:
            self._leave()
            self._decide(name, self._sock)
        elif not data or _is_left(self._sock):
            self.close()
        else:
            # Peeked bytes stay, so the socket stays readable, and waiting for "readable" would spin.
            self._pause = _FIRST_LOOK if len(data) > self._seen else min(_LAST_LOOK, 2 * self._pause)
            self._seen = len(data)
            self._again = self._loop.call_later(self._pause, self.look)

    def close(self) -> None:
        """Drop it."""
        self._leave()
        self._sock.close()

    def _readable(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self.look()

    def _leave(self) -> None:
        self._limit.cancel()
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._forget(self)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_left(sock: socket.socket) -> bool:
    """Tell whether the other side will say no more. Bytes that were only peeked at hide the end of the stream."""
    if not hasattr(select, "POLLRDHUP"):
        return False  # only Linux tells; elsewhere the time-out does
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def _speaks_plain_http(sock: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return sock.recv(8, socket.MSG_PEEK).partition(b" ")[0] in _HTTP_METHODS
    return False


def _answer_plainly(sock: socket.socket) -> None:
    """Tell somebody who speaks HTTP without TLS what is wrong, and close."""
    with sock, contextlib.suppress(OSError):
        sock.recv(MAX_HELLO)  # as below
        sock.send(_TLS_WANTED)


def _refuse(sock: socket.socket) -> None:
    """Say by TLS that the name is unknown, and close."""
    with sock, contextlib.suppress(OSError):
        # What was only peeked at has to be read first: closing with unread bytes resets the connection, and the reset
        # may overtake the alert.
        sock.recv(MAX_HELLO)
        sock.send(_UNRECOGNIZED)


__all__ = ["HELLO_TIMEOUT", "MAX_UNDECIDED", "FrontDoor"]
