"""A connection that the calling thread reads by itself: a lone caller that waits then needs no other thread.

A waiting caller's call costs two hand-overs between threads, to the reactor's loop and back, and each wakes a thread
that sleeps. A link with many such calls therefore gets a third connection, a blocking one (`Direct`): whoever finds it
free writes the call and reads the outcome; whoever finds it taken goes by the loop, as do calls whose deadline is near,
and those with streams or large values among their arguments.

Rules. One thread at a time has the socket, under `_busy`. Any other thread may only shut it down, which releases the
reader: that is how a link that closes, or whose main connection is lost or given up as mute, ends what is under way
here; the link's heartbeat watches for that. So does a call for which a method waits, when that method's own caller
gives it up. What breaks here has an unknown outcome, and the link judges it. Giving a call up, by its deadline or else,
closes the connection, which the machine takes as a cancellation. An outcome that is a stream comes by the
link's own lanes: the machine keeps it until the link says, with a CREDIT of nothing, that it has a reader for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import ssl
import struct
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bigmachine.errors import BigmachineError, DeadlineExceeded
from bigmachine.rpc.buffers import allocate
from bigmachine.rpc.calls import Call
from bigmachine.rpc.context import get_current, get_deadline
from bigmachine.rpc.lanes import DIRECT
from bigmachine.rpc.losses import not_rebuilt, translate_loss
from bigmachine.rpc.names import shown
from bigmachine.rpc.polling import PollingSocket
from bigmachine.rpc.streams.arguments import are_plain
from bigmachine.rpc.wire import (
    BY_LOOP,
    CALL,
    ERROR,
    OVERSIZED,
    PING,
    PONG,
    RESULT,
    STREAMED,
    Decoder,
    Frame,
    WireError,
    small_frame,
)

if TYPE_CHECKING:
    from bigmachine.rpc.connection import Connection
    from bigmachine.rpc.link import Link

_log = logging.getLogger("bigmachine.rpc")
#: What `Direct.call` returns for a call that has to go by the link's loop.
ELSEWHERE: Final = object()
#: Whole seconds after which a thread that reads sees whether a signal has come that did not wake it.
_LOOKS_UP: Final = 1
#: A link with so many calls of waiting threads is likely to have many more: connecting costs some milliseconds.
_WORTH_IT = 64
#: Seconds: a call whose deadline is nearer goes by the loop, for giving it up costs the connection.
_NEAR = 1.0
#: What was not used for so long may have been forgotten by something between, a NAT; it is dialled anew.
_IDLE = 30.0
#: After an attempt that failed there is none for so long.
_PAUSE = 5.0
#: A method that has returned more than this goes by the loop for so many calls: it has a connection and memory for
#: what is large, and what is small need not wait here meanwhile.
_LARGE = 2**20
_LARGE_FOR = 64
_SCRATCH_SIZE = 16 * 1024
#: Those of this process: a forked child must not write into its parent's connections.
_directs: weakref.WeakSet[Direct] = weakref.WeakSet()


class _Sent(NamedTuple):
    """A call under way: its size in bytes, when it began and how many seconds it has, if its time is bounded."""

    ident: int
    method: str
    size: int
    at: float
    left: float | None


class _Leash:
    """By which a method's caller ends the call that the method waits for."""

    __slots__ = ("_is_over", "_lock", "_socket", "is_pulled")

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self._is_over = False
        self.is_pulled = False

    def cancel(self) -> bool:
        """Release the thread that reads; from any thread."""
        with self._lock:  # after `let_go` the socket may carry somebody else's call
            if not self._is_over:
                self.is_pulled = True
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        return self.is_pulled

    def let_go(self) -> bool:
        """End it; True if it has been pulled."""
        with self._lock:
            self._is_over = True
        return self.is_pulled


class Direct:
    """One link's connection for threads that wait. `dial` connects and proves who is there, in the calling thread."""

    def __init__(self, link: Link, dial: Callable[[], ssl.SSLSocket]) -> None:
        self._link = link
        self._dial = dial
        self._busy = threading.Lock()
        self._socket: ssl.SSLSocket | None = None
        self._polling: PollingSocket | None = None  # for that one
        self._decoder = Decoder(memoryview(b""))
        self._calls = 0
        self._is_dialling = False
        self._not_before = 0.0
        self._used = 0.0
        self._streaming: set[str] = set()
        self._large: dict[str, int] = {}  # methods whose outcome was large: for how many calls they go by the loop
        #: Methods that the peer's loop serves better than its thread.
        self.by_loop: set[str] = set()
        #: Whether somebody waits for an outcome.
        self.is_waiting = False
        _directs.add(self)

    # on the calling thread

    def call(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Make a call and return its outcome; ELSEWHERE, with nothing done, if it has to go by the link's loop.

        Raises: what the method raises; MachineStopped, NetworkError, InvalidCall, DeadlineExceeded; CancelledError if
            the method that makes the call was given up.
        """
        if not self._busy.acquire(blocking=False):
            return ELSEWHERE
        try:
            now = perf_counter()
            sock = self._usable(method, args, kwargs, now)
            if sock is None:
                return ELSEWHERE
            limit = get_deadline()
            left = None if limit is None else limit - time.monotonic()
            if left is not None and left < _NEAR:
                return ELSEWHERE
            link = self._link
            ident = link.next_ident()
            codec = link.codec
            encoded = codec.small_call(ident, method, args, kwargs, left, None) or codec.call(
                CALL, 0, ident, method, args, kwargs, left
            )
            if type(encoded) is not bytes:
                return ELSEWHERE
            call = self._exchange(sock, _Sent(ident, method, len(encoded), now, left), encoded)
        finally:
            self._busy.release()
        if type(call) is not Call:
            return call
        try:
            return call.result()
        except BaseException:
            call.cancel()
            raise

    def _usable(
        self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], now: float
    ) -> ssl.SSLSocket | None:
        """Return the connection, if it is there and this call fits it."""
        sock = self._socket
        if sock is None:
            self._consider()
            return None
        if now - self._used > _IDLE:
            self._socket = None
            sock.close()
            return None
        if method in self._streaming or not are_plain(args, kwargs):
            return None
        if self._large and (left := self._large.pop(method, 0)):
            if left > 1:
                self._large[method] = left - 1
            return None
        return sock

    def _exchange(self, sock: ssl.SSLSocket, sent: _Sent, encoded: bytes) -> Any:
        """Send a call and return its outcome, or the Call that the link makes of it."""
        link = self._link
        polling = self._polling
        assert polling is not None
        ident, method, size, now, left = sent
        info = get_current()
        leash = None
        self.is_waiting = True
        try:
            if info is not None:
                leash = _Leash(sock)
                info.wait_for(leash)
            link.watch()
            if left is not None:
                sock.settimeout(left)
            sock.write(encoded)  # all of it, as the socket blocks; what `sendall` does around it costs a microsecond
            polling.expect(ident)
            frame = self._receive(sock, ident, None if left is None else now + left)
            polling.came()
            if left is not None:
                sock.settimeout(None)
        except BaseException as exc:  # noqa: BLE001 (also KeyboardInterrupt: whatever ends it, ends the connection)
            self._end(sock)
            return self._broken(sent, exc, leash)
        finally:
            self.is_waiting = False
            if info is not None and leash is not None:
                info.leave_off(leash)
                if leash.let_go():
                    self._end(sock)  # pulled a moment too late: the outcome is there
        if self._socket is not sock:
            sock.close()  # dropped meanwhile
        self._used = later = perf_counter()
        kind, _, _, payload, buffers = frame
        came = len(payload) if buffers is None else len(payload) + sum(map(len, buffers))
        link.statistics.of(method).count(later - now, kind == ERROR, came, size)
        return self._outcome(sent, frame)

    def _broken(self, sent: _Sent, exc: BaseException, leash: _Leash | None) -> Call[Any]:
        """Say what became of a call whose connection has ended under way."""
        link = self._link
        if not isinstance(exc, (OSError, EOFError, WireError)):
            raise exc
        if leash is not None and leash.is_pulled:
            raise CancelledError from None
        _, method, size, now, left = sent
        if left is not None and perf_counter() >= now + left:
            self._calls = _WORTH_IT  # as it was before
            link.statistics.of(method).count(perf_counter() - now, True, 0, size)
            raise DeadlineExceeded(f"{shown(method)} on {link.name} had no outcome within {left:.3g} s") from None
        return link.lost_directly(self._unfinished(sent), translate_loss(exc, link.name))

    def _outcome(self, sent: _Sent, frame: Frame) -> Any:
        link, method = self._link, sent.method
        kind, flags, _, payload, buffers = frame
        if flags & BY_LOOP:
            self.by_loop.add(method)
        if len(payload) + (sum(map(len, buffers)) if buffers else 0) > _LARGE:
            self._large[method] = _LARGE_FOR
        if kind == ERROR:
            raise link.codec.load_error(payload, flags, shown(method))
        if flags & OVERSIZED:
            raise link.oversized(shown(method), payload)
        if flags & STREAMED:
            self._streaming.add(method)
            left = None if sent.left is None else sent.at + sent.left - perf_counter()
            return link.adopt(self._unfinished(sent), pickle.loads(payload), left)
        try:
            return pickle.loads(payload) if buffers is None else pickle.loads(payload, buffers=buffers)
        except BaseException as exc:
            raise not_rebuilt(exc, shown(method)) from exc

    def _receive(self, sock: ssl.SSLSocket, ident: int, limit: float | None = None) -> Frame:
        """Read until the outcome of a call is there. Its payload is valid until the next time.

        Raises: TimeoutError if it is not there at `limit`, an instant of `perf_counter`.
        """
        decoder = self._decoder
        while True:
            buffer = decoder.buffer()
            if limit is not None:
                left = limit - perf_counter()
                if left <= 0:
                    raise TimeoutError
                sock.settimeout(min(left, _LOOKS_UP))
            try:
                count: int = sock.read(len(buffer), buffer)  # type: ignore[assignment]  # into a buffer
            except TimeoutError:
                if limit is None:
                    raise  # the network's own
                continue
            if not count:
                raise EOFError
            for frame in decoder.received(count):
                if frame[2] == ident and frame[0] in (RESULT, ERROR, PONG):
                    return frame

    def _unfinished(self, sent: _Sent) -> Call[Any]:
        call: Call[Any] = Call(sent.ident, sent.method, self._link)
        call.sent_at, call.size = sent.at, sent.size
        return call

    def _end(self, sock: ssl.SSLSocket) -> None:
        if self._socket is sock:
            self._socket = None
        sock.close()

    # connecting

    def _consider(self) -> None:
        """Connect, in a thread of its own, if it is worth it by now."""
        self._calls += 1
        if self._calls < _WORTH_IT or self._is_dialling or perf_counter() < self._not_before:
            return
        self._calls = 0
        self._is_dialling = True
        threading.Thread(target=self._connect, name="bigmachine-dial", daemon=True).start()

    def _connect(self) -> None:
        link = self._link
        main = link.main
        sock: ssl.SSLSocket | None = None
        try:
            sock = self._dial()
            decoder = Decoder(memoryview(bytearray(_SCRATCH_SIZE)), allocate, link.codec.limit)
            # Only when the machine has answered is it sure that it has accepted the connection as this link's.
            sock.sendall(link.greeting(DIRECT) + small_frame(PING, 0, 0))
            self._decoder = decoder
            self._receive(sock, 0)
            sock.settimeout(None)
            # It still blocks, but looks for signals meanwhile: one that came just before it slept has not woken it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _LOOKS_UP, 0))
            link.reactor.post(self._install, sock, main)
        except (BigmachineError, OSError, EOFError, WireError, RuntimeError) as exc:
            _log.debug("no connection to %s for calls that wait: %r", link.name, exc)
            self._not_before = perf_counter() + _PAUSE
            self._is_dialling = False
            if sock is not None:
                sock.close()

    # on the reactor's thread

    def _install(self, sock: ssl.SSLSocket, main: Connection | None) -> None:
        self._is_dialling = False
        if main is None or self._link.main is not main:
            sock.close()
            return
        self._used = perf_counter()
        self._polling = PollingSocket(sock)
        self._socket = sock

    def drop(self) -> None:
        """End the connection, and release whoever waits for an outcome from it; from any thread."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        with contextlib.suppress(OSError):
            # Not `sock.shutdown`: that takes the TLS away from whoever is reading.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        if self._busy.acquire(blocking=False):
            try:
                sock.close()
            finally:
                self._busy.release()

    def abandon(self) -> None:
        """Let go of the connection without a word: this is a forked child, and it is the parent's."""
        sock, self._socket = self._socket, None
        self._not_before = float("inf")
        if sock is not None:
            os.close(sock.detach())


def _abandon_all() -> None:
    for direct in _directs:
        direct.abandon()


os.register_at_fork(after_in_child=_abandon_all)
