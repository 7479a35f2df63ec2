"""The machine's side of a connection for threads that wait (see `direct`): a thread of its own reads, runs, answers.

Carried by the event loop, such a call costs two hand-overs between threads on the machine as well, from the loop to a
thread and back. Here one thread (`Attendant`) receives the call, runs the plain method, and sends the outcome. All else
it has the loop do, and waits for the outcome itself: `async def` methods, those of services that bound their
concurrency, methods that are not known yet or may not be called, and whatever turns out to be a stream or a coroutine.
Of what the loop serves better the client is told, by `BY_LOOP`, and uses another connection for it.

Rules. The socket is read and written by the thread alone, and closed by the loop when the thread has ended. Any other
thread may only shut it down, or look whether something has come: as a client sends nothing before it has the outcome,
that means that it has gone, and with it its call. A method that asks whether it is still wanted looks by itself; while
one waits for calls of its own, or for the loop, the loop watches the socket. So `_under_way` is None again before an
outcome leaves, for after that the next call may come. The loop watches by an epoll descriptor that stands between: what
libuv polls it makes non-blocking, and the thread would spin. Where there is no epoll, nothing is served this way.

Anybody can cause such a thread to be started. So there are no more than `_MOST_GREETING` whose client has not shown yet
that it belongs to the session and has a link here, for a bounded time; and each thread counts in the bound of threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import select
import socket
import ssl
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, cast

from bigmachine.errors import AuthenticationError
from bigmachine.rpc.buffers import allocate
from bigmachine.rpc.channel import not_rebuilt
from bigmachine.rpc.codec import UNSAID
from bigmachine.rpc.complaints import complain_of_frame
from bigmachine.rpc.context import set_current
from bigmachine.rpc.lanes import DIRECT
from bigmachine.rpc.names import TRACE_KEYWORD
from bigmachine.rpc.net import ALPN, HANDSHAKE_TIMEOUT
from bigmachine.rpc.polling import PollingSocket
from bigmachine.rpc.runs import FramedRun
from bigmachine.rpc.waiting.channel import DirectChannel
from bigmachine.rpc.wire import (
    BY_LOOP,
    CALL,
    ERROR,
    HELLO,
    OVERSIZED,
    PING,
    PONG,
    VERSION,
    Buffer,
    Decoder,
    Frame,
    WireError,
    kind_of,
    size_of,
    small_frame,
)
from bigmachine.trust import Peer, peer_of

if TYPE_CHECKING:
    from bigmachine.rpc.channel import Early
    from bigmachine.rpc.codec import Encoded
    from bigmachine.rpc.connection import Connection
    from bigmachine.rpc.context import Waited
    from bigmachine.rpc.server import Server
    from bigmachine.rpc.services import Method

_log = logging.getLogger("bigmachine.rpc")
_MOST_GREETING: Final = 16
_SCRATCH_SIZE: Final = 16 * 1024
#: How long a peer that failed the handshake is given to read why, and how much of what it still says is read.
_FAREWELL: Final = 1.0
_UNREAD: Final = 64 * 1024
_new = object.__new__
#: Those of this process: in a forked child their connections are the parent's.
_attendants: weakref.WeakSet[Attendant] = weakref.WeakSet()


def attend(sock: socket.socket, context: ssl.SSLContext, server: Server) -> bool:
    """Serve an accepted socket by a thread; on the loop. False, with nothing done, if none can be spared for it."""
    if not hasattr(select, "epoll") or server.greeting >= _MOST_GREETING or not server.pool.lend():
        return False
    with sock:
        try:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError) as exc:
            _log.debug("a connection failed before its handshake: %s", exc)
            server.pool.take_back()
            return True
    Attendant(secured, server).begin()
    return True


class _Run(FramedRun):
    """A call that an attendant runs."""

    __slots__ = ("attendant", "is_watched")

    attendant: Attendant
    is_watched: bool

    def cancelled(self) -> bool:
        if not self._cancelled and self.attendant.is_left(self):
            self._cancelled = True
        return super().cancelled()

    def wait_for(self, call: Waited) -> None:
        if not self.is_watched:
            self.is_watched = True
            self.attendant.watch()
        super().wait_for(call)


class _Channel(DirectChannel):
    """An attendant's calls, as its link and the loop see them."""

    def take(self, ident: int, early: Early) -> None:
        """Serve a call by the loop."""
        self._call(0, ident, b"", None, early)
        self.server.workers.work_soon()


class Attendant:
    """A thread that serves one connection. To its channel it is a connection."""

    def __init__(self, sock: ssl.SSLSocket, server: Server) -> None:
        self._server = server
        self._reactor = server.reactor
        self._codec = server.codec
        self._socket: ssl.SSLSocket | None = sock
        self._decoder = Decoder(memoryview(bytearray(_SCRATCH_SIZE)), allocate, server.codec.limit)
        self._peer: Peer | None = None
        self._channel: _Channel | None = None
        #: What the loop has for the thread, which waits for it: an outcome, or None for the end of the connection.
        self._outcomes: queue.SimpleQueue[Encoded | None] = queue.SimpleQueue()
        #: The call that the peer waits for.
        self._under_way: object = None
        # Both on the loop. The first is made when it is needed.
        self._epoll: select.epoll | None = None
        self._is_watched = False
        self._errand = server.pool.errand
        self._is_abandoned = False

    def begin(self) -> None:
        """Start the thread; on the loop."""
        _attendants.add(self)
        self._reactor.connections.add(self)
        self._server.others.add(self)
        self._server.greeting += 1
        try:
            threading.Thread(target=self._run, name="bigmachine-direct", daemon=True).start()
        except RuntimeError:
            _log.warning("this host lets the machine have no further thread: a connection is dropped")
            self._ended()

    # on the thread

    def _run(self) -> None:
        try:
            self._serve()
        except (OSError, EOFError, WireError, AuthenticationError, RuntimeError) as exc:
            _log.debug("a connection that a thread serves has ended: %r", exc)
        except Exception as exc:  # noqa: BLE001 (a frame that does not hold what its kind says: the connection's end)
            complain_of_frame(self._reactor.complaints, self._peer, exc)
        finally:
            if self._is_abandoned:
                os._exit(1)  # a method has returned in a child that it forked: this is all there is of that process
            set_current(None)
            try:
                self._reactor.post(self._ended)
            except RuntimeError:  # the loop has ended
                self._close()

    def _serve(self) -> None:
        frames = self._greeted()
        if self._socket is None:
            raise EOFError
        polling = PollingSocket(self._socket)
        ident = 0
        while True:
            for kind, flags, ident, payload, buffers in frames:
                if kind == CALL:
                    self._call(flags, ident, payload, buffers)
                elif kind == PING:
                    self._write(small_frame(PONG, 0, ident))
                else:
                    raise WireError(f"a frame of the kind {kind} came where calls are made one after the other")
            polling.expect(ident)
            frames = self._received()
            polling.came()

    def _received(self) -> list[Frame]:
        sock = self._socket
        if sock is None:
            raise EOFError
        buffer = self._decoder.buffer()
        count: int = sock.read(len(buffer), buffer)  # type: ignore[assignment]  # into a buffer
        if not count:
            raise EOFError
        return self._decoder.received(count)

    def _write(self, encoded: Encoded) -> None:
        sock = self._socket
        if sock is None:
            raise EOFError
        if type(encoded) is bytes:
            sock.write(encoded)  # all of it, as the socket blocks
        else:
            for part in cast("list[Buffer]", encoded):
                sock.sendall(part)

    def _greeted(self) -> list[Frame]:
        """Find out who is there and which link it belongs to; return what came after that."""
        sock = self._socket
        if sock is None:
            raise EOFError
        sock.settimeout(HANDSHAKE_TIMEOUT)
        try:
            sock.do_handshake()
        except ssl.SSLError:
            self._take_leave(sock)
            raise
        try:
            peer = self._peer = peer_of(cast(Any, sock))
        except AuthenticationError as exc:
            self._reactor.complaints.warn("refused", "refused a connection: %s", exc)
            raise
        if sock.selected_alpn_protocol() != ALPN:
            raise WireError(f"{peer} does not speak {ALPN}")
        frames = self._received()
        while not frames:
            frames = self._received()
        kind, _, _, payload, _ = frames[0]
        if kind != HELLO:
            raise WireError("the first frame is none that says which link this is")
        version, token, lane = pickle.loads(payload)
        if version != VERSION or lane != DIRECT:
            raise WireError(f"the peer speaks version {version} of the protocol, by lane {lane}; this is {VERSION}")
        self._reactor.post(self._join, token)
        if self._outcomes.get() is None:
            raise WireError("a further lane came for a link that is not there")
        sock.settimeout(None)
        return frames[1:]

    def _take_leave(self, sock: ssl.SSLSocket) -> None:
        """Let a peer that failed the handshake read why: closing with unread bytes might overtake the alert."""
        with contextlib.suppress(OSError):
            sock.settimeout(_FAREWELL)
            socket.socket.shutdown(sock, socket.SHUT_WR)
            socket.socket.recv(sock, _UNREAD)

    def _call(self, flags: int, ident: int, payload: Buffer, buffers: list[bytes | bytearray] | None) -> None:
        server, channel = self._server, self._channel
        assert channel is not None
        errand = server.pool.errand
        if errand is not self._errand:
            self._errand = errand
            if errand is not None:
                errand()
        if flags:
            self._write(self._unfit(flags, ident, payload))
            return
        try:
            call = pickle.loads(payload) if buffers is None else pickle.loads(payload, buffers=buffers)
            name, args, kwargs, timeout, key = call + UNSAID if len(call) == 2 else call
        except BaseException as exc:  # noqa: BLE001 (a user's constructor)
            self._write(self._codec.error(ident, not_rebuilt(exc), ours=True))
            return
        size = len(payload) + (sum(map(len, buffers)) if buffers else 0)
        method = server.table.known(name)
        is_here = method is not None and not method.is_async and method.gate is None and key is None
        if not is_here or (kwargs and TRACE_KEYWORD in kwargs) or not self._may_call(cast("Method", method)):
            early = (name, args, kwargs, timeout, key, (), size)
            del call, args, kwargs
            self._write(self._by_loop(ident, early))
            return
        run = _new(_Run)
        run.begin(channel, ident, cast("Method", method), args, kwargs, timeout, (), size)
        run.attendant = self
        run.is_watched = False
        del call, args, kwargs  # what a method lets go of is gone
        channel.runs[ident] = run
        channel.has_come(ident)
        self._under_way = run
        encoded = run.carry_out()
        if encoded is None:
            self._reactor.post(self._watch)
            encoded = self._awaited()
        else:
            self._under_way = None
            channel.runs.pop(ident, None)
            if type(encoded) is bytes:
                channel.over(run, encoded[6] == ERROR, len(encoded))
            else:
                channel.over(run, kind_of(encoded) == ERROR, size_of(encoded))
        self._write(encoded)
        del run
        set_current(None)

    def _unfit(self, flags: int, ident: int, payload: Buffer) -> bytes:
        if not flags & OVERSIZED:
            raise WireError("a call with streams came where calls are made one after the other")
        return self._codec.error(ident, self._codec.large_call(payload), ours=True)

    def _may_call(self, method: Method) -> bool:
        authorize = self._server.authorize
        if authorize is not None:
            try:
                authorize(cast(Peer, self._peer), method.name)
            except AuthenticationError:
                return False  # the loop says so
        return True

    def _by_loop(self, ident: int, early: Early) -> Encoded:
        """Have the loop serve a call, and return its outcome."""
        self._under_way = early
        name = early[0]
        self._reactor.post(self._hand_over, ident, early)
        del early
        encoded = self._awaited()
        method = self._server.table.known(name)
        if method is not None and (method.is_async or method.gate is not None) and type(encoded) is bytes:
            encoded = encoded[:7] + bytes((encoded[7] | BY_LOOP,)) + encoded[8:]
        return encoded

    def _awaited(self) -> Encoded:
        encoded = self._outcomes.get()
        if encoded is None:
            raise EOFError
        self._under_way = None
        return encoded

    # from any thread

    def is_left(self, call: object) -> bool:
        """Tell whether the peer has gone while it waits for this call."""
        return self._under_way is call and self._has_something() and self._under_way is call

    def _has_something(self) -> bool:
        sock = self._socket
        if sock is None:
            return True
        try:
            socket.socket.recv(sock, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def watch(self) -> None:
        """Have the loop see whether the peer goes."""
        self._reactor.post(self._watch)

    def abort(self, error: Exception | None = None) -> None:
        """End the connection, and release the thread if it waits for the peer or the loop."""
        if error is not None:
            _log.debug("a connection that a thread serves is ended: %s", error)
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                # Not `sock.shutdown`: that takes the TLS away from the thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        self._outcomes.put(None)

    # on the loop

    def close(self) -> None:
        """End the connection."""
        self.abort()

    def flush(self) -> None:
        """Nothing is gathered here."""

    def send(self, data: bytes) -> None:
        """Give the thread an outcome to be sent."""
        self._outcomes.put(data)

    def send_large(self, parts: list[Buffer]) -> None:
        """Give the thread an outcome to be sent."""
        self._outcomes.put(parts)

    def _join(self, token: bytes) -> None:
        owner = self._server.link_of(cast(Peer, self._peer), token)
        if owner is None:
            self._outcomes.put(None)
            return
        self._server.greeting -= 1
        self._channel = _Channel(owner, cast("Connection", self))  # it sends, closes and aborts; no more is asked of it
        self._outcomes.put(b"")

    def _hand_over(self, ident: int, early: Early) -> None:
        assert self._channel is not None
        self._watch()
        try:
            self._channel.take(ident, early)
        except Exception as exc:  # noqa: BLE001 (as for every frame: the connection's end)
            complain_of_frame(self._reactor.complaints, self._peer, exc)
            self.abort()

    def _watch(self) -> None:
        sock = self._socket
        if self._is_watched or sock is None:
            return
        if self._epoll is None:
            try:
                self._epoll = select.epoll(1)
            except OSError as exc:  # no descriptor is free: a peer that goes is noticed by the outcome that it gets
                _log.debug("a connection that a thread serves is not watched: %s", exc)
                return
            self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        self._is_watched = True
        self._reactor.loop.add_reader(self._epoll.fileno(), self._readable)

    def _unwatch(self) -> None:
        if self._is_watched and self._epoll is not None:
            self._is_watched = False
            self._reactor.loop.remove_reader(self._epoll.fileno())

    def _readable(self) -> None:
        call = self._under_way
        if call is None:
            self._unwatch()  # the next call has come
        elif self.is_left(call):
            self._unwatch()
            self._give_up()
            self.abort()

    def _give_up(self) -> None:
        if self._channel is not None:
            self._channel.lost(cast("Connection", self), None)

    def _ended(self) -> None:
        self._unwatch()
        if self._epoll is not None:
            self._epoll.close()
        self._reactor.connections.discard(self)
        if self._channel is None:
            self._server.greeting -= 1
        self._give_up()
        self._server.pool.take_back()
        self._close()

    def _close(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # a process that was forked may have it, too
            sock.close()

    def abandon(self) -> None:
        """Let go of the connection without a word: this is a forked child, and it is the parent's."""
        self._is_abandoned = True
        sock, self._socket = self._socket, None
        if sock is not None:
            os.close(sock.detach())


def _abandon_all() -> None:
    for attendant in _attendants:
        attendant.abandon()


os.register_at_fork(after_in_child=_abandon_all)

__all__ = ["Attendant", "attend"]
