"""One method being run, from the call to its outcome.

Plain methods run in threads, `async def` methods on the event loop. A call that nobody waits for any more is told: its
task is cancelled, a plain method sees it in `current_call()`. Nothing a method raises ends the machine: also
SystemExit arrives at the caller, as a RemoteError.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Coroutine
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from bigmachine.errors import DeadlineExceeded, InvalidCall
from bigmachine.rpc.codec import LEAVES, Encoded
from bigmachine.rpc.context import CallInfo, get_deadline, set_current, set_deadline
from bigmachine.rpc.services import Method
from bigmachine.rpc.streams.arguments import add_hint
from bigmachine.rpc.streams.streamed import PLAIN, stream_kind
from bigmachine.rpc.wire import ERROR, OURS, RESULT, small_frame
from bigmachine.rpc.workers import DONE, Steps

if TYPE_CHECKING:
    from contextvars import Context

    from bigmachine.rpc.channel import Channel
    from bigmachine.rpc.ledger import Entry
    from bigmachine.rpc.server import Server
    from bigmachine.trust import Peer

#: Who waits for the outcome of a call that was sent again: a channel, and the id of the call there.
Waiting = tuple["Channel", int]


class Run(CallInfo):
    """What all ways of asking for a method have in common: the call as its method sees it, and how it is run."""

    __slots__ = ("args", "began", "kwargs", "method")

    def __init__(
        self, server: Server, peer: Peer, method: Method, args: Any, kwargs: Any, timeout: float | None
    ) -> None:
        # CallInfo's own __init__ spelled out: this is done for each call.
        self.caller = peer.id
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self._session = server.session
        self._cancelled = False
        self._is_told = False
        self._waited = None
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.began = perf_counter()

    def enter(self) -> None:
        """Make this the current call of the running thread or task."""
        set_current(self)
        if self.deadline is not get_deadline():  # most have none, and a look costs less than setting it
            set_deadline(self.deadline)

    def check_wanted(self) -> None:
        """Raise DeadlineExceeded if nobody waits for the outcome any more."""
        if self.cancelled():
            raise DeadlineExceeded(f"{self.method.name} was not begun: its caller had stopped waiting")

    def start(self) -> None:
        """Begin: its service has room for it."""
        raise NotImplementedError  # each way's own

    def leave(self) -> None:
        """Let the next one of its service begin."""
        if self.method.gate is not None:
            for following in self.method.gate.leave():
                following.start()

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
        if type(exc) is TypeError or type(exc) is AttributeError:
            add_hint(exc, self.args, self.kwargs)
        return exc, False


class AwaitedRun(Run):
    """A call for `Server.invoke`: its outcome is awaited on the loop."""

    __slots__ = ("_future", "_server", "_turn")

    def __init__(
        self, server: Server, peer: Peer, method: Method, args: Any, kwargs: Any, timeout: float | None
    ) -> None:
        super().__init__(server, peer, method, args, kwargs, timeout)
        self._server = server
        self._future: asyncio.Future[Any] = server.reactor.loop.create_future()
        self._turn: asyncio.Future[None] | None = None

    async def outcome(self) -> Any:
        """Run it, when its service has room for it, and return what it returns."""
        gate = self.method.gate
        if gate is not None and not gate.enter(self):
            self._turn = self._server.reactor.loop.create_future()
            await self._turn
        if self.method.is_async:
            self.enter()
            try:
                result = self.method.function(*self.args, **self.kwargs)
                return await result if inspect.isawaitable(result) else result
            except TypeError as exc:
                blamed, is_ours = self.blame(exc)
                if not is_ours:
                    raise
                raise blamed from exc
            finally:
                self.leave()
        self._server.pool.submit(self)
        result = await self._future
        return await result if inspect.iscoroutine(result) else result

    def run(self) -> None:
        """Run a plain method; in a thread."""
        self.enter()
        try:
            self.check_wanted()
            result = self.method.function(*self.args, **self.kwargs)
        except BaseException as exc:  # noqa: BLE001 (the edge of the method: it goes to the caller)
            self._server.reactor.post(self._fail, self.blame(exc)[0])
        else:
            self._server.reactor.post(self._finish, result)

    def start(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)
        else:
            self.leave()  # it has given up waiting

    def _finish(self, result: object) -> None:
        self.leave()
        if not self._future.done():
            self._future.set_result(result)

    def _fail(self, exc: BaseException) -> None:
        self.leave()
        if not self._future.done():
            # Of StopIteration a future says that it "interacts badly with generators", and stays without an outcome.
            is_fit = isinstance(exc, Exception) and not isinstance(exc, StopIteration)
            self._future.set_exception(exc if is_fit else RuntimeError(f"{type(exc).__name__}: {exc}"))


class FramedRun(Run):
    """A call that came in a frame."""

    __slots__ = ("_is_late", "channel", "context", "coroutine", "entry", "fed_by", "ident", "size", "task", "timer")

    def begin(
        self,
        channel: Channel,
        ident: int,
        method: Method,
        args: Any,
        kwargs: Any,
        timeout: float | None,
        fed_by: tuple[int, ...],
        size: int,
    ) -> None:
        """Be a new call: for an object that was made without `__init__`, which costs as much as this does.

        `fed_by`: the ids of the streams among the arguments. `size`: the bytes of the call, for the counts.
        """
        # What the base classes set, spelled out once more: a call more here is one more for each call.
        self.caller = channel.peer.id
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self._session = channel.server.session
        self._cancelled = False
        self._is_told = False
        self._waited = None
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.began = perf_counter()
        self.channel = channel
        self.ident = ident
        #: For a call that may be sent again: where its outcome is kept.
        self.entry: Entry[Waiting, Encoded] | None = None
        self.fed_by = fed_by
        self.size = size
        #: What an async method made, or a plain one returned.
        self.coroutine: Coroutine[Any, Any, Any] | None = None
        #: What an async method runs in.
        self.context: Context | None = None
        #: While an async method runs.
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._is_late = False

    def start(self) -> None:
        self.channel.start(self)

    def run(self) -> None:
        """Run a plain method; in a thread."""
        encoded = self.carry_out()
        if encoded is not None:
            self.channel.reactor.post(self.channel.reply, self, encoded)

    def carry_out(self) -> Encoded | None:
        """Run a plain method and return its outcome; None if that is no value: then the loop sees to it."""
        self.enter()
        channel = self.channel
        kind: str | None = None
        encoded: Encoded = b""
        is_coroutine = False
        try:
            if self._cancelled or self.deadline is not None:
                self.check_wanted()
            result = self.method.function(*self.args, **self.kwargs)
            if type(result) not in PLAIN:
                is_coroutine = inspect.iscoroutine(result)
                kind = None if is_coroutine else stream_kind(result)
            if not is_coroutine and kind is None:
                encoded = self._success(result)
        except BaseException as exc:  # noqa: BLE001 (the edge of the method: it goes to the caller)
            return self._failure(exc)
        if kind is not None:
            channel.reactor.post(channel.stream, self, result, kind)
            return None
        if is_coroutine:
            channel.reactor.post(channel.begin, self, result)
            return None
        return encoded

    # an async method, by a worker

    def first(self) -> Any:
        """Begin an async method: returns what it waits for, DONE if it is through."""
        set_current(self)
        coroutine = self.coroutine
        try:
            if self.deadline is not None or self._cancelled:
                set_deadline(self.deadline)
                if coroutine is not None and self.cancelled():
                    coroutine.close()
                self.check_wanted()
            if coroutine is None:
                kwargs = self.kwargs
                function = self.method.function
                coroutine = function(*self.args, **kwargs) if kwargs else function(*self.args)
            if type(coroutine) is not CoroutineType:
                if not inspect.isawaitable(coroutine):
                    self.succeed(coroutine)
                    return DONE
                coroutine = _awaiting(coroutine)
            self.coroutine = coroutine
        except BaseException as exc:  # noqa: BLE001 (the edge of the method: it goes to the caller)
            self.fail(exc)
            return DONE
        try:
            return coroutine.send(None)
        except StopIteration as returned:
            self.succeed(returned.value)
        except BaseException as exc:  # noqa: BLE001 (as above)
            self.fail(exc)
        return DONE

    def rest(self, waits_for: Any) -> Steps:
        """Give the steps of the method that are left."""
        assert self.coroutine is not None
        assert self.context is not None
        return Steps(self.coroutine, self.context, waits_for)

    def succeed(self, result: Any) -> None:
        """Take what the method has returned."""
        channel = self.channel
        if type(result) in LEAVES:
            channel.reply(self, self._success(result))
            return
        try:
            kind = None if type(result) in PLAIN else stream_kind(result)
            encoded = self._success(result) if kind is None else b""
        except BaseException as exc:  # noqa: BLE001 (of an item of the result: it goes to the caller)
            self.fail(exc)
            return
        if kind is not None:
            channel.stream(self, result, kind)
        else:
            channel.reply(self, encoded)

    def fail(self, exc: BaseException) -> None:
        """Take what the method has raised."""
        self.channel.reply(self, self._failure(exc))

    def _success(self, result: object) -> Encoded:
        self.args, self.kwargs = (), None  # a stream among them ends when the method has let go of it
        codec = self.channel.codec
        if self.deadline is not None and self.entry is None and time.monotonic() >= self.deadline:
            # Often what a method returns that has seen that nobody waits: to a caller whose timer is late it would
            # be the outcome. Of a call that may come again it is kept.
            return codec.error(self.ident, self._too_late(), ours=True)
        try:
            return codec.result(RESULT, 0, self.ident, result, self.method.name)
        except InvalidCall as exc:
            return codec.error(self.ident, exc, ours=True)

    def _failure(self, exc: BaseException) -> bytes:
        if self.entry is None and self.ident not in self.channel.runs:
            # It was given up: nobody will read it, and writing it down takes the time of some calls.
            self.args, self.kwargs = (), None
            return small_frame(ERROR, OURS, self.ident)
        try:
            exc, ours = self.blame(exc)
            if isinstance(exc, asyncio.CancelledError) and self._is_late:
                exc, ours = self._too_late(), True
            self.args, self.kwargs = (), None
            return self.channel.codec.error(self.ident, exc, ours=ours)
        finally:
            del exc  # its traceback holds this frame

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"{self.method.name} was not done by its deadline")

    def expire(self) -> None:
        """Note that the deadline has passed; not told from the clock, for a timer may go off a millisecond early."""
        self._is_late = True
        self.cancel()

    def cancel(self) -> None:
        """The caller does not wait any more."""
        super().cancel()
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None:
            # One that has not begun sees by itself that it is not wanted, and is told to the gate of its service.
            self.task.cancel()


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
