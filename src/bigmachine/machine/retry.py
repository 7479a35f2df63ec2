"""Calling again while the error is temporary: when, and how long to pause.

Every attempt carries the same key, so a machine that has seen it answers with that call's outcome, or waits for it,
instead of running it again. An exception of the method itself is an outcome, whatever it says of being temporary.
Where the machine has that outcome no more (a stream, which is given once; a process that was replaced) its error says
so, and has the one that made the call be repeated as its cause.

A call one of whose arguments is a stream itself is attempted once: what the first attempt has read of an iterator or a
file is gone, and a second one would send the rest as if it were all.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from typing import Any

from bigmachine.errors import BigmachineError, DeadlineExceeded, is_remote
from bigmachine.rpc import Call, OutcomeGone
from bigmachine.rpc.context import remaining
from bigmachine.rpc.names import shown
from bigmachine.rpc.streams.streamed import stream_kind

#: Pauses grow by half from 0.05 s to 5 s, each a random share of it (AWS's "full jitter", but not below a half).
_FIRST, _GROWTH, _LONGEST = 0.05, 1.5, 5.0
_NOT_TWICE = (
    "not repeated, for an argument is a stream and may be half read: "
    "give a function without arguments that makes the stream, to have the call repeated"
)
_GROWN = 20  # beyond that they do not grow, and a power of some thousand is no float


def pause(attempt: int, chance: float) -> float:
    """Return the seconds to wait after failed attempt number `attempt` (from 0); `chance` is from 0 to 1. Pure."""
    longest: float = min(_LONGEST, _FIRST * _GROWTH ** min(attempt, _GROWN))
    return longest * (0.5 + 0.5 * chance)


def is_worth_repeating(exc: BaseException) -> bool:
    """Tell whether an error is the link's and may go away."""
    return isinstance(exc, BigmachineError) and exc.temporary and not is_remote(exc)


def has_stream(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether an argument is a stream itself, which can be sent once, and not a function that makes one."""
    return any(stream_kind(value) is not None for value in (*args, *kwargs.values()))


def retry(submit: Callable[[bytes], Call[Any]], rest: Callable[[float], object], *, is_once: bool = False) -> Any:
    """Run a call until it has an outcome that repeating cannot change; `rest(seconds)` pauses between two attempts.

    `is_once`: it cannot be sent again, so the first error is raised as it is.

    Raises: that outcome; DeadlineExceeded, from the last error, if the next pause would pass the deadline.
    """
    key = os.urandom(16)
    attempt = 0
    last: BaseException | None = None
    while True:
        call = submit(key)
        try:
            return call.result()
        except BaseException as exc:
            call.cancel()
            if not is_worth_repeating(exc):
                if isinstance(exc, OutcomeGone) and not is_remote(exc):
                    raise exc from last
                raise
            if is_once:
                exc.add_note(_NOT_TWICE)
                raise
            wait = pause(attempt, random.random())  # noqa: S311 (to spread callers, not to surprise them)
            left = remaining()
            if left is not None and left <= wait:
                method = shown(call.method)
                raise DeadlineExceeded(f"{method} failed {attempt + 1} times until its deadline: {exc}") from exc
            last = exc.with_traceback(None)  # that holds this frame, and it the arguments
        finally:
            del call  # as above
        attempt += 1
        rest(wait)
