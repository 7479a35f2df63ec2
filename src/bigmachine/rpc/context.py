"""What a call carries along: its deadline, and inside a method who called and whether it is still wanted.

Both are context variables, so they follow threads and tasks that the library starts for a call, and `asyncio` tasks
that a method starts by itself. Deadlines are instants of `time.monotonic` within a process and durations between
processes, so clocks need not agree.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, cast

from bigmachine.errors import InvalidCall

if TYPE_CHECKING:
    from bigmachine.session import Session

_deadline: ContextVar[float | None] = ContextVar("bigmachine_deadline", default=None)
_current: ContextVar[CallInfo | None] = ContextVar("bigmachine_call", default=None)

#: Read on each call; bound once because the attribute look-up costs as much as the read.
get_deadline = _deadline.get
set_deadline = _deadline.set
set_current = _current.set


class CallInfo:
    """The call that a service's method is serving, as the method sees it."""

    __slots__ = ("_cancelled", "_session", "caller", "deadline")

    def __init__(self, caller: str, session: object, deadline: float | None) -> None:
        self.caller = caller
        self.deadline = deadline
        self._session = session
        self._cancelled = False

    @property
    def session(self) -> Session:
        """The machine's session: `dial` other machines with it."""
        return cast("Session", self._session)

    def remaining(self) -> float | None:
        """Return the seconds until the call's deadline (0.0 once it has passed), or None if it has none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def cancelled(self) -> bool:
        """Tell whether nobody waits for the outcome any more: a long plain method should look now and then."""
        return self._cancelled or (self.deadline is not None and time.monotonic() >= self.deadline)

    def cancel(self) -> None:
        """Mark the call as not wanted any more (for whoever serves it)."""
        self._cancelled = True


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

    Deadlines nest: the earliest counts. A call that is not done by then raises `DeadlineExceeded`.
    """
    limit = time.monotonic() + seconds
    outer = _deadline.get()
    token = _deadline.set(limit if outer is None else min(limit, outer))
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining() -> float | None:
    """Return the seconds left of the innermost deadline, negative once it has passed; None without one."""
    limit = _deadline.get()
    return None if limit is None else limit - time.monotonic()


__all__ = ["CallInfo", "current_call", "deadline", "remaining"]
