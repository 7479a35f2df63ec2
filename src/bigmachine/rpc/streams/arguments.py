"""Arguments that are streams: found at the top level of a call, replaced by a reference, sent item by item.

An iterator, an async iterator and a binary file are streams. So is what a zero-argument callable makes, if it says
that it makes streams (a generator function, a return annotation, `open`; also in a partial), or is one that could not
travel itself (a lambda, a local function): it is called anew for each attempt of a retried call. Any other callable is
a value, and is never called here: a method may be meant to run it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from typing import Any

from bigmachine.frozen import frozen
from bigmachine.rpc.streams.streamed import BYTES, PLAIN, StreamRef, stream_kind

_STREAMS = (
    "Iterator",
    "Generator",
    "BinaryIO",
    "IO[bytes]",
    "RawIOBase",
    "BufferedIOBase",
    "BufferedReader",
    "BytesIO",
)


@frozen
class Feed:
    """The source of a stream of arguments, under the id that its reference has.

    `closes`: whether it is to be closed at its end. A file that the caller opened is the caller's to close.
    `context`: the caller's variables, in which it produces: a call that it makes has the deadline of its caller.
    """

    ident: int
    source: Any
    kind: str
    closes: bool
    context: Context


def are_plain(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Tell quickly whether no argument can be a stream."""
    for value in args:
        if type(value) not in PLAIN:
            return False
    if kwargs:
        for value in kwargs.values():
            if type(value) not in PLAIN:
                return False
    return True


def take_streams(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], next_ident: Callable[[], int], *, by_value: bool = False
) -> tuple[tuple[Any, ...], Mapping[str, Any], list[Feed]]:
    """Replace the streams among the arguments by references; return them too.

    `by_value`: lambdas and local functions can travel.
    """
    feeds: list[Feed] = []

    def replace(value: Any) -> Any:
        source, kind = value, stream_kind(value)
        is_made = kind is None and is_factory(value, by_value=by_value)
        if is_made:
            source = value()
            kind = stream_kind(source)
        if kind is None:
            return value
        ident = next_ident()
        feeds.append(Feed(ident, source, kind, closes=is_made or kind != BYTES, context=copy_context()))
        return StreamRef(ident, kind)

    new_args = tuple(replace(value) for value in args)
    new_kwargs = {name: replace(value) for name, value in kwargs.items()}
    return new_args, new_kwargs, feeds


def is_factory(value: object, *, by_value: bool = False) -> bool:
    """Tell whether a callable is one that makes a stream when called without arguments, rather than a value."""
    if not callable(value) or isinstance(value, type):
        return False
    maker: object = value
    while isinstance(maker, functools.partial):
        maker = maker.func
    if not inspect.isroutine(maker) or not _needs_nothing(value):
        return False
    if inspect.isgeneratorfunction(maker) or inspect.isasyncgenfunction(maker) or maker is open:
        return True
    qualname = getattr(maker, "__qualname__", "")
    if not by_value and ("<lambda>" in qualname or "<locals>" in qualname):
        return True
    returns = getattr(maker, "__annotations__", {}).get("return", "")
    return any(name in (returns if isinstance(returns, str) else repr(returns)) for name in _STREAMS)


def _needs_nothing(value: Callable[..., object]) -> bool:
    try:
        inspect.signature(value).bind()
    except (TypeError, ValueError):
        return False
    return True
