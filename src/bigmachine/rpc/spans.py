"""Spans of calls for OpenTelemetry, with W3C trace context from machine to machine.

A program that has imported `opentelemetry.trace` and set a tracer provider gets a client's span for each call it makes,
and on the machine, if the program does so there as well, a server's span below it. Nothing is imported here that the
program has not imported itself; whoever does not trace pays for one look into `sys.modules` a call.

The context travels as one more keyword argument, by a name that no function can have; the machine takes it out again,
whether it traces or not.

Source: https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/ (names and attributes).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import InvalidCall
from bigmachine.rpc.names import TRACE_KEYWORD, TRACING_API, shown

if TYPE_CHECKING:
    from bigmachine.rpc.calls import Call
    from bigmachine.rpc.services import Method

_SYSTEM: Final = {"rpc.system": "bigmachine"}


class CallSpan:
    """The span of a call that is being made: send it with `kwargs`, and `follow` what comes of it."""

    def __init__(self, span: Any, kwargs: dict[str, Any]) -> None:
        self._span = span
        self.kwargs = kwargs

    def follow(self, call: Call[Any]) -> Call[Any]:
        """End the span with the call, which is given back."""
        call.add_done_callback(self._end)
        return call

    def _end(self, call: Call[Any]) -> None:
        error = None if call.cancelled() else call.exception()
        if error is not None:
            _note(self._span, error)
        self._span.end()


def are_recorded() -> bool:
    """Tell whether the program has set a tracer provider; the API alone records nothing."""
    from opentelemetry import trace

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def begin(method: str, machine: str, kwargs: Mapping[str, Any]) -> CallSpan | None:
    """Begin the span of a call to `machine`; None if nobody records it."""
    if not are_recorded():
        return None
    from opentelemetry import propagate, trace

    span = trace.get_tracer("bigmachine").start_span(
        shown(method), kind=trace.SpanKind.CLIENT, attributes={**_attributes(shown(method)), "server.address": machine}
    )
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=trace.set_span_in_context(span))
    return CallSpan(span, {**kwargs, TRACE_KEYWORD: carrier})


def traced(method: Method, carrier: object) -> Method:
    """Give a method that runs in a span of its own, below the caller's; itself where nobody traces."""
    if TRACING_API not in sys.modules or not isinstance(carrier, dict):
        return method
    function = method.function
    if method.is_async:

        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with _serving(method.name, carrier):
                result = _called(function, method.name, args, kwargs)
                return await result if inspect.isawaitable(result) else result

        return replace(method, function=run_async)

    def run(*args: Any, **kwargs: Any) -> Any:
        with _serving(method.name, carrier):
            return _called(function, method.name, args, kwargs)

    return replace(method, function=run)


def _serving(name: str, carrier: dict[str, str]) -> Any:
    from opentelemetry import propagate, trace

    return trace.get_tracer("bigmachine").start_as_current_span(
        name, context=propagate.extract(carrier), kind=trace.SpanKind.SERVER, attributes=_attributes(name)
    )


def _called(function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call it, telling arguments that do not fit from a TypeError of its own, which `Run.blame` no longer can."""
    try:
        return function(*args, **kwargs)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise InvalidCall(f"the arguments do not fit {name}: {error}") from error
        raise


def _attributes(name: str) -> dict[str, str]:
    service, _, method = name.rpartition(".")
    return {**_SYSTEM, "rpc.service": service, "rpc.method": method}


def _note(span: Any, error: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))


__all__ = ["CallSpan", "are_recorded", "begin", "traced"]
