"""Exceptions as an HTTP client sees them: a status and a JSON object. Pure.

`{"error": {"type": "ValueError", "message": "…", "traceback": "…"}}`; the traceback is there only for what a method
raised, since for all other errors it would show our own insides. Statuses follow the Go original (`rpc/server.go`),
which has 590 for "the method ran and raised": no proxy or library makes one up by itself.
"""

from __future__ import annotations

import builtins
import traceback

from bigmachine import errors
from bigmachine.errors import DeadlineExceeded, InvalidCall, RemoteError
from bigmachine.rpc.codec import _trim

METHOD_RAISED = 590


def status_of(exc: BaseException) -> int:
    """Return the status that says whose fault `exc`, raised by an invocation, is.

    A method that calls other machines can raise our own errors, too: arguments of *its* call that do not fit are no
    fault of whoever called it. So one of these counts as ours only if no frame of the user's is on its way.
    """
    if isinstance(exc, InvalidCall) and _is_raised_by_us(exc):
        return 400
    if isinstance(exc, DeadlineExceeded) and _is_raised_by_us(exc):
        return 504
    return METHOD_RAISED


def _is_raised_by_us(exc: BaseException) -> bool:
    frames = (frame for frame, _ in traceback.walk_tb(exc.__traceback__))
    return all(frame.f_globals.get("__name__", "").startswith(("bigmachine.", "asyncio.")) for frame in frames)


def describe(exc: BaseException, *, with_traceback: bool) -> dict[str, object]:
    """Return the JSON object for an exception."""
    told: dict[str, object] = {"type": _type_name(exc), "message": _message(exc)}
    if with_traceback:
        told["traceback"] = "".join(traceback.format_exception(type(exc), exc, _trim(exc)))
    return {"error": told}


def _type_name(exc: BaseException) -> str:
    if isinstance(exc, RemoteError):
        return exc.type_name
    kind = type(exc)
    is_plain = kind.__module__ in (builtins.__name__, errors.__name__)
    return kind.__qualname__ if is_plain else f"{kind.__module__}.{kind.__qualname__}"


def _message(exc: BaseException) -> str:
    try:
        return exc.message if isinstance(exc, RemoteError) else str(exc)
    except Exception as broken:  # noqa: BLE001 (a user's __str__ that raises must not hide the error itself)
        return f"<its message cannot be printed: {type(broken).__name__}>"
