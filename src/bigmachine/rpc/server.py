"""The called side: runs methods for authenticated peers and sends back what comes of it.

Plain methods run in threads, `async def` methods on the event loop, several at once. A call that nobody waits for any
more (cancelled, its deadline passed, its connection lost) is told: its task is cancelled, a plain method sees it in
`current_call()`. Nothing a method does ends the machine but the process's own death: also SystemExit arrives at the
caller, as a RemoteError.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import pickle
import time
from collections.abc import Callable, Mapping
from typing import Any

from bigmachine.errors import BigmachineError, DeadlineExceeded, InvalidCall, NetworkError
from bigmachine.rpc.codec import Codec, Encoded
from bigmachine.rpc.connection import Connection
from bigmachine.rpc.context import CallInfo, set_current, set_deadline
from bigmachine.rpc.lanes import BULK, Lanes
from bigmachine.rpc.pool import DEFAULT_THREADS, ThreadPool
from bigmachine.rpc.pool import Job as PoolJob
from bigmachine.rpc.reactor import Reactor
from bigmachine.rpc.services import Method, ServiceTable
from bigmachine.rpc.streams import Outgoing, StreamRef, stream_kind
from bigmachine.rpc.wire import (
    CALL,
    CANCEL,
    HELLO,
    OVERSIZED,
    PING,
    PONG,
    RESULT,
    STREAMED,
    VERSION,
    Buffer,
    Frame,
    WireError,
    small_frame,
)
from bigmachine.trust import Peer

_log = logging.getLogger("bigmachine.rpc")
#: Raises AuthenticationError if the peer may not call the method of this wire name.
Authorize = Callable[[Peer, str], None]


class Server:
    """The services of one machine, for all who are connected to it. To be made on the event loop it serves from."""

    def __init__(
        self,
        table: ServiceTable,
        *,
        authorize: Authorize | None = None,
        session: object = None,
        codec: Codec | None = None,
        reactor: Reactor | None = None,
        threads: int = DEFAULT_THREADS,
    ) -> None:
        self.table = table
        self.authorize = authorize
        self.session = session
        self.codec = codec or Codec()
        self.reactor = reactor or Reactor(asyncio.get_running_loop())
        self.pool = ThreadPool(self.reactor, threads, "bigmachine-call")
        self.channels: set[Channel] = set()
        #: Called with each connection's peer when it begins to call.
        self.on_peer: Callable[[Peer], None] | None = None

    def channel(self, peer: Peer) -> Channel:
        """Make the receiver for a connection of `peer`."""
        if self.on_peer is not None:
            self.on_peer(peer)
        return Channel(self, peer)

    def method(self, peer: Peer, name: str) -> Method:
        """Find a method that this peer may call.

        Raises: InvalidCall, AuthenticationError.
        """
        method = self.table.find(name)
        if self.authorize is not None:
            self.authorize(peer, method.name)
        return method

    async def invoke(
        self,
        peer: Peer,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        timeout: float | None = None,  # noqa: ASYNC109 (it travels on)
    ) -> Any:
        """Call a method for a peer that does not speak frames; a stream comes back as its iterator.

        Raises: what the method raises; InvalidCall, AuthenticationError, DeadlineExceeded.
        """
        method = self.method(peer, name)
        job = _Awaited(self, peer, method, args, kwargs, timeout)
        try:
            async with asyncio.timeout(timeout):
                return await job.outcome()
        except TimeoutError:
            if job.info.remaining() != 0.0:
                raise  # the method's own
            raise DeadlineExceeded(f"{method.name} had no outcome within {timeout:g} s") from None
        finally:
            job.info.cancel()

    async def close(self) -> None:
        """Close every connection and let the threads end."""
        for channel in list(self.channels):
            channel.close_lanes()
        self.pool.close()


class _Run:
    """One method being run: what both ways of asking for it have in common."""

    __slots__ = ("args", "info", "kwargs", "method")

    def __init__(
        self, server: Server, peer: Peer, method: Method, args: Any, kwargs: Any, timeout: float | None
    ) -> None:
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.info = CallInfo(peer.id, server.session, None if timeout is None else time.monotonic() + timeout)

    def enter(self) -> None:
        """Make this the current call of the running thread or task."""
        set_current(self.info)
        set_deadline(self.info.deadline)

    def check_wanted(self) -> None:
        if self.info.cancelled():
            raise DeadlineExceeded(f"{self.method.name} was not begun: its caller had stopped waiting")

    def blame(self, exc: BaseException) -> tuple[BaseException, bool]:
        """Tell the method's own exceptions from a call that did not fit; return it and whether it is ours."""
        if type(exc) is TypeError:
            tb = exc.__traceback__
            if tb is None or tb.tb_next is None:  # raised by the call itself, not inside the method
                try:
                    inspect.signature(self.method.function).bind(*self.args, **self.kwargs)
                except TypeError as misfit:
                    return InvalidCall(f"the arguments do not fit {self.method.name}: {misfit}"), True
                except ValueError:
                    pass
        return exc, False


class _Awaited(_Run):
    """A call for `Server.invoke`."""

    __slots__ = ("_future", "_server")

    def __init__(self, server: Server, peer: Peer, method: Method, args: Any, kwargs: Any, timeout: float | None):
        super().__init__(server, peer, method, args, kwargs, timeout)
        self._server = server
        self._future: asyncio.Future[Any] = server.reactor.loop.create_future()

    async def outcome(self) -> Any:
        if self.method.is_async:
            self.enter()
            try:
                result = self.method.function(*self.args, **self.kwargs)
                return await result if inspect.isawaitable(result) else result
            except TypeError as exc:
                raise self.blame(exc)[0] from exc
        self._server.pool.submit(self)
        result = await self._future
        return await result if inspect.iscoroutine(result) else result

    def run(self) -> None:
        self.enter()
        try:
            self.check_wanted()
            result = self.method.function(*self.args, **self.kwargs)
        except BaseException as exc:  # noqa: BLE001 (the edge of the method: it goes to the caller)
            self._server.reactor.post(self._fail, self.blame(exc)[0])
        else:
            self._server.reactor.post(self._finish, result)

    def _finish(self, result: object) -> None:
        if not self._future.done():
            self._future.set_result(result)

    def _fail(self, exc: BaseException) -> None:
        if not self._future.done():
            ours = exc if isinstance(exc, Exception) else RuntimeError(f"{type(exc).__name__}: {exc}")
            self._future.set_exception(ours)


class _Job(_Run):
    """A call that came in a frame."""

    __slots__ = ("channel", "ident", "task", "timer")

    def __init__(self, channel: Channel, ident: int, method: Method, args: Any, kwargs: Any, timeout: float | None):
        super().__init__(channel.server, channel.peer, method, args, kwargs, timeout)
        self.channel = channel
        self.ident = ident
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def run(self) -> None:
        """Run a plain method; in a thread."""
        self.enter()
        post = self.channel.server.reactor.post
        try:
            self.check_wanted()
            result = self.method.function(*self.args, **self.kwargs)
        except BaseException as exc:  # noqa: BLE001 (the edge of the method: it goes to the caller)
            post(self.channel.reply, self, self._failure(exc))
            return
        if (kind := stream_kind(result)) is not None:
            post(self.channel.stream, self, result, kind)
        elif inspect.iscoroutine(result):
            post(self.channel.begin, self, result)
        else:
            post(self.channel.reply, self, self.encode(result))

    async def run_async(self, coroutine: Any) -> None:
        """Run an async method; on the event loop. `coroutine`: what a plain method returned, if it was one."""
        self.enter()
        try:
            if coroutine is None:
                self.check_wanted()
                coroutine = self.method.function(*self.args, **self.kwargs)
            result = await coroutine if inspect.isawaitable(coroutine) else coroutine
            encoded = None if (kind := stream_kind(result)) is not None else self.encode(result)
        except BaseException as exc:  # the edge of the method: also SystemExit must not end the loop
            if self.ident in self.channel.jobs:
                self.channel.reply(self, self._failure(exc))
            if isinstance(exc, asyncio.CancelledError):
                raise
            return
        if kind is not None:
            self.channel.stream(self, result, kind)
        elif encoded is not None:
            self.channel.reply(self, encoded)

    def encode(self, result: object) -> Encoded:
        codec = self.channel.codec
        try:
            return codec.result(RESULT, 0, self.ident, result, self.method.name)
        except InvalidCall as exc:
            return codec.error(self.ident, exc, ours=True)

    def _failure(self, exc: BaseException) -> bytes:
        try:
            exc, ours = self.blame(exc)
            return self.channel.codec.error(self.ident, exc, ours=ours)
        finally:
            del exc  # its traceback holds this frame

    def cancel(self) -> None:
        """The caller does not wait any more."""
        self.info.cancel()
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None:
            self.task.cancel()


class Channel(Lanes):
    """The called side of one link: its calls under way and its streams."""

    def __init__(self, server: Server, peer: Peer) -> None:
        super().__init__()
        self.server = server
        self.peer = peer
        self.reactor = server.reactor
        self.codec = server.codec
        self.jobs: dict[int, _Job] = {}
        self.token: bytes = b""
        server.channels.add(self)

    def run_in_thread(self, job: PoolJob) -> None:
        self.server.pool.submit(job)

    # frames

    def frames(self, connection: Connection, frames: list[Frame]) -> None:
        for kind, flags, ident, payload, buffers in frames:
            if kind == CALL:
                self._call(flags, ident, payload, buffers)
            elif kind == CANCEL:
                self._cancel(ident)
            elif kind == PING:
                connection.send(small_frame(PONG, 0, ident))
            elif kind == HELLO:
                self._hello(connection, payload)
            elif kind > PONG:
                self.stream_frame(kind, flags, ident, payload, buffers)

    def _hello(self, connection: Connection, payload: Buffer) -> None:
        version, token, lane = pickle.loads(payload)
        if version != VERSION:
            raise WireError(f"the peer speaks version {version} of the protocol, this side {VERSION}")
        connection.stops_reading_when_full = True
        if lane != BULK:
            self.token = token
            self.main = connection
            return
        owner = next((c for c in self.server.channels if c.token == token and c.peer == self.peer), None)
        if owner is None:
            raise WireError("a bulk lane came for a link that is not there")
        self.server.channels.discard(self)
        connection.receiver = owner
        owner.bulk = connection

    def _call(self, flags: int, ident: int, payload: Buffer, buffers: list[bytes | bytearray] | None) -> None:
        if flags & OVERSIZED:
            text = f"the call has {bytes(payload).decode()} bytes, above this machine's limit of {self.codec.limit:,}"
            self._refuse(ident, InvalidCall(text))
            return
        try:
            name, args, kwargs, timeout, _key = pickle.loads(payload, buffers=buffers or ())
        except Exception as exc:  # noqa: BLE001 (a user's constructor)
            self._refuse(ident, _not_rebuilt(exc))
            return
        if flags & STREAMED:
            args = tuple(self._open(arg, name) for arg in args)
            kwargs = {key: self._open(arg, name) for key, arg in kwargs.items()}
        try:
            method = self.server.method(self.peer, name)
        except BigmachineError as exc:
            self._refuse(ident, exc)
            return
        job = self.jobs[ident] = _Job(self, ident, method, args, kwargs, timeout)
        if method.is_async:
            self.begin(job, None)
        else:
            self.server.pool.submit(job)

    def _open(self, arg: object, name: str) -> object:
        return self.open_stream(arg.ident, arg.kind, f"to {name}") if type(arg) is StreamRef else arg

    def begin(self, job: _Job, coroutine: Any) -> None:
        """Start an async method's task."""
        job.task = self.reactor.spawn(job.run_async(coroutine), job.method.name)
        if (left := job.info.remaining()) is not None:
            job.timer = self.reactor.loop.call_later(left, job.cancel)

    def _cancel(self, ident: int) -> None:
        job = self.jobs.pop(ident, None)
        if job is not None:
            job.cancel()
        if (outgoing := self.outgoing.get(ident)) is not None:
            outgoing.close()

    def _refuse(self, ident: int, exc: BigmachineError) -> None:
        self.transmit(self.codec.error(ident, exc, ours=True))

    # outcomes

    def reply(self, job: _Job, encoded: Encoded) -> None:
        """Send a call's outcome, if it is still wanted."""
        if self.jobs.pop(job.ident, None) is not None:
            if job.timer is not None:
                job.timer.cancel()
            self.transmit(encoded)

    def stream(self, job: _Job, source: object, kind: str) -> None:
        """Begin to send a call's outcome item by item."""
        wanted = self.jobs.pop(job.ident, None) is not None and self.main is not None
        stream = Outgoing(self, job.ident, source, kind, job.method.name, info=job.info)
        stream.start()
        if wanted:
            self.transmit(self.codec.result(RESULT, STREAMED, job.ident, (kind, stream.is_bulk), job.method.name))
        else:
            stream.close()

    # the connection

    def lost(self, connection: Connection, error: Exception | None) -> None:
        if connection is self.bulk:
            self.bulk = None
            if self.main is not None:
                self.main.abort(error)  # frames of its calls may be lost: the caller has to know
            return
        self.main = None
        self.server.channels.discard(self)
        if self.bulk is not None:
            self.bulk.abort(error)
        for job in list(self.jobs.values()):
            job.cancel()
        self.jobs.clear()
        self.end_streams(NetworkError(f"the connection of {self.peer.id} was lost"))


def _not_rebuilt(exc: Exception) -> InvalidCall:
    hint = "is the module on the machine, too?"
    if isinstance(exc, AttributeError):
        hint = "define classes and functions before the program reaches bigmachine.start() or driver.start()"
    return InvalidCall(f"an argument could not be rebuilt on the machine: {type(exc).__name__}: {exc}; {hint}")
