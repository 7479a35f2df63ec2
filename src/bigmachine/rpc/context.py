"""What a call carries along: its deadline, and inside a method who called and whether it is still wanted.

Both are context variables, so they follow threads and tasks that the library starts for a call, and `asyncio` tasks
that a method starts by itself. Deadlines are instants of `time.monotonic` within a process and durations between
processes, so clocks need not agree.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, SupportsFloat, cast

from bigmachine.errors import InvalidCall

if TYPE_CHECKING:
    from bigmachine.session import Session

_deadline: ContextVar[float | None] = ContextVar("bigmachine_deadline", default=None)
_current: ContextVar[CallInfo | None] = ContextVar("bigmachine_call", default=None)

_making_set = threading.Lock()

#: Read on each call; bound once because the attribute look-up costs as much as the read.
get_deadline = _deadline.get
get_current = _current.get
set_deadline = _deadline.set
set_current = _current.set


class Waited(Protocol):
    """A call, as whoever waits for it sees it."""

    def cancel(self) -> bool: ...


class CallInfo:
    """The call that a service's method is serving, as the method sees it.

    A cancellation reaches a plain method once, like a task: by `cancelled()`, or, if it waits for a call of its own,
    by the cancellation of that one. After that it may make calls again, to clean up.
    """

    __slots__ = ("_cancelled", "_is_told", "_session", "_waited", "caller", "deadline")

    def __init__(self, caller: str, session: object, deadline: float | None) -> None:
        self.caller = caller
        self.deadline = deadline
        self._session = session
        self._cancelled = False
        self._is_told = False
        self._waited: set[Waited] | None = None

    @property
    def session(self) -> Session:
        """The machine's session: `dial` other machines with it."""
        return cast("Session", self._session)

    def remaining(self) -> float | None:
        """Return the seconds until the call's deadline (0.0 once it has passed), or None if it has none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def cancelled(self) -> bool:
        """Tell whether nobody waits for the outcome any more: a long plain method should look now and then."""
        if self._cancelled:
            self._is_told = True
            return True
        return self.deadline is not None and time.monotonic() >= self.deadline

    def cancel(self) -> None:
        """Mark the call as not wanted any more, and so the calls that its method waits for (for whoever serves it)."""
        self._cancelled = True
        for call in tuple(self._waited or ()):
            self._is_told = True
            call.cancel()

    def wait_for(self, call: Waited) -> None:
        """Note that a thread of the method waits for `call`, until `leave_off` (for whoever lets it wait)."""
        (self._made_set() if self._waited is None else self._waited).add(call)
        if self._cancelled and not self._is_told:  # the method cannot have known
            self._is_told = True
            call.cancel()

    def _made_set(self) -> set[Waited]:
        with _making_set:
            if self._waited is None:
                self._waited = set()
            return self._waited

    def leave_off(self, call: Waited) -> None:
        """Note that it does not wait any more."""
        assert self._waited is not None
        self._waited.discard(call)


def current_call() -> CallInfo:
    """Return the call that this method is serving.

    Raises: InvalidCall outside of a service's method.
    """
    info = _current.get()
    if info is None:
        raise InvalidCall("current_call() is only known inside a service's method, in its own thread or task")
    return info


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let every call inside end within `seconds`, also calls that the called methods make in turn.

    Deadlines nest: the earliest counts. A call that is not done by then raises `DeadlineExceeded`; with 0 or less,
    that is at once. With `math.inf` there is no deadline but the outer one.

    Raises: InvalidCall if `seconds` is no number.
    """
    given: object = seconds  # whatever it says: not every caller has a type checker
    if not isinstance(given, SupportsFloat) or math.isnan(given):
        raise InvalidCall(f"deadline({seconds!r}): give a number of seconds, such as 0.5, or math.inf for none")
    outer = _deadline.get()
    limit: float | None = outer
    if seconds != math.inf:
        limit = time.monotonic() + float(seconds)
        limit = limit if outer is None else min(limit, outer)
    token = _deadline.set(limit)
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining() -> float | None:
    """Return the seconds left of the innermost deadline, negative once it has passed; None without one."""
    limit = _deadline.get()
    return None if limit is None else limit - time.monotonic()


__all__ = ["CallInfo", "current_call", "deadline", "remaining"]
