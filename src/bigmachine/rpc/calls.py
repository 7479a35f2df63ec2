"""`Call`: the outcome of one call, for threads and for any event loop.

A `Call` is a `concurrent.futures.Future`, so `wait`, `as_completed` and everything else that takes one works. The
base class makes a lock and a condition for each future, which alone would cost more than a third of a small call;
here the condition is made when somebody needs it (`_condition` is a property), and a plain waiter needs only a lock.
What each call has stands in slots: of those the interpreter knows the place, and a dictionary is only made for the
calls that need more.

Rule that makes this safe without a lock: whoever completes first writes the outcome and the state, then looks for
waiters; whoever waits first registers, then looks at the state. Under the interpreter lock one of them sees the other.
Most calls are awaited by one task on the loop that carries them; whoever else waits says so by `_has_company`, first.

The standard library's own waiters have another rule: they look twice at `_state` while they hold the condition, and it
must not change in between. So `_state` is another thing than `_now`: what was told under the condition.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from asyncio.events import _get_running_loop
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from bigmachine.errors import BigmachineError, DeadlineExceeded
from bigmachine.rpc.context import get_current
from bigmachine.rpc.names import shown
from bigmachine.rpc.reactor import Reactor, wake_on

if TYPE_CHECKING:
    from bigmachine.rpc.near import Near

_log = logging.getLogger("bigmachine.rpc")
#: Seconds after which a thread that waits sees whether a signal has come that did not wake it.
_LOOKS_UP: Final = 1.0
R = TypeVar("R")

_PENDING = "PENDING"
_CANCELLED = "CANCELLED_AND_NOTIFIED"
_FINISHED = "FINISHED"
_making_condition = threading.Lock()


class CallCarrier(Protocol):
    """The link of a call."""

    reactor: Reactor

    def give_up(self, call: Call[Any]) -> None:
        """The caller does not want the outcome any more; from any thread."""


class Call(concurrent.futures.Future[R], Generic[R]):
    """The outcome of a call that was sent with `Machine.submit`; it can also be awaited, from any event loop.

    Cancelling it, or the task that awaits it, reaches the method and releases the caller at once.
    """

    __slots__ = (
        "_exception",
        "_has_company",
        "_now",
        "_result",
        "_told",
        "_waiter",
        "_waiters",
        "carrier",
        "ident",
        "method",
        "near",
        "sent_at",
        "size",
        "timer",
        "unclaimed",
    )

    # What only some calls need.
    _cond: threading.Condition | None = None
    #: On which the first thread that waits sleeps, while it does.
    lock: Any = None
    #: Whether it may be sent again, under a key.
    has_key = False
    # Who awaits it but the task that does on the loop that carries it.
    _awaiting: list[asyncio.Future[None]] | None = None
    _callbacks: list[Callable[[Any], object]] | None = None

    def __init__(self, ident: int = 0, method: str = "", carrier: CallCarrier | None = None) -> None:
        self.begin(ident, method, carrier)

    def begin(self, ident: int, method: str, carrier: CallCarrier | None) -> None:
        """Be a new call: for an object that was made without `__init__`, for which a type takes as long as this."""
        self.ident = ident
        self.method = method
        self.carrier = carrier
        self.sent_at = perf_counter()
        #: Set while nobody has sent it: where it is offered.
        self.near: Near | None = None
        #: For the link that carries it: its deadline, how many bytes were sent.
        self.timer: asyncio.TimerHandle | None = None
        self.size = 0
        self._now = _PENDING
        #: Holds one thing until there is an outcome: whoever takes it out brings that.
        self.unclaimed = [None]
        self._result: Any = None
        self._exception: BaseException | None = None
        # Whether anybody has to be told but the task that awaits it on the loop that carries it.
        self._has_company = False
        # On which a task awaits it on the loop that carries it.
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_pending(self) -> bool:
        """Whether there is no outcome yet; looking does not have it sent, as `done()` does."""
        return self._now is _PENDING

    @property
    def name(self) -> str:
        """The method, as people write it."""
        return shown(self.method)

    def send_far(self) -> None:
        """Have it sent by the link's own loop, if nobody has sent it yet; from any thread."""
        near = self.near
        if near is not None:
            near.send_far(self)

    # Made when first asked for: see above.

    def _make_condition(self) -> threading.Condition:
        if self.near is not None:
            self.send_far()
        if self._cond is None:
            with _making_condition:
                if self._cond is None:
                    self._waiters: list[Any] = []
                    condition = threading.Condition()
                    self._has_company = True
                    with condition:  # nobody looks at `_state` before this is through
                        self._cond = condition
                        # Whoever completes it from here on will tell; if it is complete, perhaps nobody will.
                        self._told = self._now
        return self._cond

    def _told_state(self) -> str:
        return self._now if self._cond is None else self._told

    if TYPE_CHECKING:
        # As the base has them, and type checkers want them for `as_completed`.
        _condition: threading.Condition
        _state: str
    else:
        _condition = property(_make_condition)
        _state = property(_told_state)

    @property
    def _done_callbacks(self) -> list[Callable[[Any], object]]:  # as above
        if self._callbacks is None:
            self._has_company = True
            self._callbacks = self.__dict__.setdefault("_made_callbacks", [])  # one operation: there is only one list
        return self._callbacks

    # completing it

    def finish(self, value: Any, woken: list[asyncio.Future[None]] | None = None) -> bool:
        """Set the result; False if there is an outcome already.

        `woken`: given on the loop that carries the call, it gets the task that awaits it there, to be woken.
        """
        try:
            # A reply and a cancellation can come from two threads; `pop` is one operation, so one of them wins.
            self.unclaimed.pop()
        except IndexError:
            return False
        self._result = value
        self._now = _FINISHED
        if self._waiter is not None:
            if woken is not None:
                woken.append(self._waiter)
            else:
                self._wake()
        if self._has_company:
            self._tell()
        return True

    def fail(self, exc: BaseException) -> bool:
        """Set the exception; False if there is an outcome already."""
        return self._end(_FINISHED, exc)

    def break_off(self, cause: Exception) -> None:
        """Fail, for what was to be done for it could not be; on the loop that carries it."""
        error = BigmachineError(f"{self.name} could not be carried on: {type(cause).__name__}: {cause}")
        error.__cause__ = cause
        if self.fail(error) and self.carrier is not None:
            self.carrier.give_up(self)

    def _end(self, state: str, exc: BaseException | None) -> bool:
        try:
            self.unclaimed.pop()
        except IndexError:
            return False
        self._exception = exc
        self._now = state
        if self._waiter is not None:
            self._wake()
        if self._has_company:
            self._tell()
        return True

    def _wake(self) -> None:
        assert self._waiter is not None
        self.carrier.reactor.wake(self._waiter)  # type: ignore[union-attr]  # there is one, if it is awaited there

    def _tell(self) -> None:
        lock = self.lock
        if lock is not None:
            if self.carrier is None:
                lock.release()
            else:
                self.carrier.reactor.rouse(self)
        if self._awaiting is not None:
            wake = wake_on if self.carrier is None else self.carrier.reactor.wake
            for waiter in self._awaiting:
                wake(waiter)
        if self._cond is not None:
            self._notify()
        if self._callbacks is not None:
            self._run_callbacks()

    def _notify(self) -> None:
        assert self._cond is not None
        with self._cond:
            if self._told is not _PENDING:
                return  # the condition was made after it was complete: nobody has waited on it
            self._told = self._now
            for waiter in self._waiters:
                if self._now is _CANCELLED:
                    waiter.add_cancelled(self)
                elif self._exception is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            self._cond.notify_all()

    def _run_callbacks(self) -> None:
        callbacks = self._done_callbacks
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:
                return  # the other thread took it
            try:
                callback(self)
            except (Exception, SystemExit):  # noqa: BLE001 (the edge: a callback is the user's, the loop everybody's)
                _log.exception("a callback of %r failed", self)

    # the Future's face

    def set_result(self, result: R) -> None:
        if not self.finish(result):
            raise concurrent.futures.InvalidStateError(f"{self._now}: {self!r}")

    def set_exception(self, exception: BaseException | None) -> None:
        assert exception is not None
        if not self.fail(exception):
            raise concurrent.futures.InvalidStateError(f"{self._now}: {self!r}")

    def cancel(self) -> bool:
        """Give the call up: the caller is released now, the method is told."""
        if self._end(_CANCELLED, None) and self.carrier is not None:
            self.carrier.give_up(self)
        return self._now is _CANCELLED

    def cancelled(self) -> bool:
        return self._now is _CANCELLED

    def running(self) -> bool:
        return self._now is _PENDING

    def done(self) -> bool:
        if self.near is not None:
            self.send_far()
        return self._now is not _PENDING

    def add_done_callback(self, fn: Callable[[Call[R]], object]) -> None:
        """Call `fn(call)` when there is an outcome; in the thread that brings it, so it must be quick."""
        if self.near is not None:
            self.send_far()
        self._done_callbacks.append(fn)
        if self._now is not _PENDING:
            self._run_callbacks()

    def result(self, timeout: float | None = None) -> R:
        """Wait for the outcome and return it.

        Raises: what the method raised; DeadlineExceeded (a TimeoutError) after `timeout` seconds, while the call
        goes on; CancelledError.
        """
        if self._now is _PENDING:
            self.wait(timeout)
        try:
            return self.outcome()
        finally:
            self = None  # type: ignore[assignment]  # noqa: PLW0642 (as in `outcome`)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if self._now is _PENDING:
            self.wait(timeout)
        if self._now is _CANCELLED:
            raise CancelledError
        return self._exception

    def outcome(self) -> R:
        """Return or raise the outcome of a call that is done."""
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                # Otherwise the exception, its traceback and this frame keep each other alive.
                self = None  # type: ignore[assignment]  # noqa: PLW0642 (breaks the cycle)
        if self._now is _CANCELLED:
            raise CancelledError
        return self._result  # type: ignore[no-any-return]  # R by construction

    def wait(self, timeout: float | None = None) -> None:
        """Wait until there is an outcome.

        Raises: DeadlineExceeded; BigmachineError on the event loop that carries the call, for it would never come.
        """
        if self.near is not None:
            self.send_far()
        if self.carrier is not None and self.carrier.reactor.is_here and self._now is _PENDING:
            raise BigmachineError(
                f"waiting for {self.name} here would stop the event loop that carries its answer: use 'await'"
            )
        info = get_current()
        if info is None:
            self._wait(timeout)
            return
        info.wait_for(self)
        try:
            self._wait(timeout)
        finally:
            info.leave_off(self)

    def _wait(self, timeout: float | None) -> None:
        # The first waiter needs no condition: a bare lock that is released by whoever completes.
        lock = threading.Lock()
        lock.acquire()
        if timeout is not None or self.__dict__.setdefault("_first", lock) is not lock:
            self._wait_for_condition(timeout)
            return
        self.lock = lock
        self._has_company = True
        try:
            # A signal that comes just before this thread sleeps does not wake it: its handler runs when it next looks.
            while self._now is _PENDING and not lock.acquire(True, _LOOKS_UP):
                pass
        finally:
            self.lock = None
            if self.carrier is not None:
                self.carrier.reactor.pass_on()

    def _wait_for_condition(self, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        with self._condition:
            while self._now is _PENDING:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise DeadlineExceeded(f"{self.name or 'the call'} had no outcome within {timeout:g} s")
                left = None if left is None else min(left, threading.TIMEOUT_MAX)
                self._cond.wait(left)  # type: ignore[union-attr]  # made by the property just above

    def _enrol(self) -> asyncio.Future[None]:
        """Be awaited on the loop that runs here; returns what its task is to wait on."""
        if self.near is not None:
            self.send_far()
        carrier = self.carrier
        reactor = None if carrier is None else carrier.reactor
        # Most likely it is the reactor's. Asking asyncio is a system call in Python 3.11 (`getpid`).
        if reactor is not None and get_ident() == reactor.thread_id and reactor.loop.is_running():
            if self._waiter is None:
                self._waiter = reactor.spare.pop() if reactor.spare else reactor.loop.create_future()
                return self._waiter
            loop = reactor.loop
        else:
            loop = _running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._has_company = True
        if self._awaiting is None:
            self._awaiting = self.__dict__.setdefault("_made_awaiting", [])
        self._awaiting.append(waiter)
        return waiter

    def __await__(self) -> Generator[Any, None, R]:
        if self._now is _PENDING:
            near = self.near
            reactor = None if near is None else near.send_here(self)  # most likely it is awaited where it was made
            if reactor is None:
                waiter = self._enrol()
            else:
                waiter = self._waiter = reactor.spare.pop() if reactor.spare else reactor.loop.create_future()
            if self._now is _PENDING:
                try:
                    # As the future's own `__await__` does it, with an iterator less.
                    waiter._asyncio_future_blocking = True
                    yield waiter
                except asyncio.CancelledError:
                    self.cancel()
                    raise
        if self._now is _FINISHED and self._exception is None:
            return self._result  # type: ignore[no-any-return]  # R by construction
        if self._now is _CANCELLED:
            raise asyncio.CancelledError
        try:
            return self.outcome()
        finally:
            self = None  # type: ignore[assignment]  # noqa: PLW0642 (as in `outcome`)

    def __repr__(self) -> str:
        how = self._now.split("_")[0].lower()
        if self._exception is not None:
            how = f"raised {type(self._exception).__name__}"
        return f"<Call {self.name} #{self.ident} {how}>"


def _running_loop() -> asyncio.AbstractEventLoop:
    loop = _get_running_loop()
    if loop is None:
        raise RuntimeError("a Call can be awaited on a running event loop only; elsewhere ask for its result()")
    return loop
