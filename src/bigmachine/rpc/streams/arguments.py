"""Arguments that are streams: found at the top level of a call, replaced by a reference, sent item by item.

An iterator, an async iterator and a binary file are streams. So is what a zero-argument callable makes, if it says
that it makes streams, or is one that could not travel itself (a lambda, a local function): it is called anew for each
attempt of a retried call. Those say so: a generator function, a function with such a return annotation, what the
standard library opens files and makes iterators with, and a partial of one of them or of a class of such objects. Any
other callable is a value, and is never called here: a method may be meant to run it. If it was not, the method's error
has a note of that (`add_hint`).
"""

from __future__ import annotations

import functools
import inspect
import io
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
    "FileIO",
    "GzipFile",
)
#: Functions of the standard library that make streams, by module and qualified name; they have no annotations.
_MAKERS = frozenset(
    (
        ("_io", "open"),  # the built-in one
        ("builtins", "aiter"),
        ("builtins", "iter"),
        ("bz2", "open"),
        ("gzip", "open"),
        ("io", "open"),
        ("lzma", "open"),
        ("pathlib", "Path.open"),
        ("pathlib._local", "Path.open"),  # Python 3.13
    )
)
#: How Python says that a function was used as a stream.
_MISUSES = ("not iterable", "not an iterator", "__aiter__", "__anext__", "attribute 'read", "attribute '__next__'")
_HINT = (
    "an argument is a function, and was passed as a value: to have the stream that it makes passed instead, say in its "
    "annotation that it returns one (-> Iterator[int], -> BinaryIO), or give a lambda that calls it (in a notebook, "
    "where lambdas travel as values, a generator function)"
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
    if not (inspect.isroutine(maker) or isinstance(maker, type)) or not _needs_nothing(value):
        return False
    if isinstance(maker, type):  # in a partial
        return _is_of_streams(maker)
    qualname = getattr(maker, "__qualname__", "")
    if inspect.isgeneratorfunction(maker) or inspect.isasyncgenfunction(maker):
        return True
    if (getattr(maker, "__module__", ""), qualname) in _MAKERS:
        return True
    if not by_value and ("<lambda>" in qualname or "<locals>" in qualname):
        return True
    returns = getattr(maker, "__annotations__", {}).get("return", "")
    if isinstance(returns, type) and _is_of_streams(returns):
        return True
    return any(name in (returns if isinstance(returns, str) else repr(returns)) for name in _STREAMS)


def _is_of_streams(cls: type) -> bool:
    is_file = issubclass(cls, io.RawIOBase | io.BufferedIOBase)
    return is_file or ((hasattr(cls, "__next__") or hasattr(cls, "__anext__")) and not issubclass(cls, io.IOBase))


def _needs_nothing(value: Callable[..., object]) -> bool:
    try:
        inspect.signature(value).bind()
    except TypeError:
        return False
    except ValueError:  # of some that are written in C Python does not know what they need; of `iter` we do
        return isinstance(value, functools.partial) and value.func is iter and bool(value.args)
    return True


def add_hint(exc: TypeError | AttributeError, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Note on a method's error, if it looks so, that it got a function where it wanted the stream that this makes."""
    text = str(exc)
    if not any(misuse in text for misuse in _MISUSES):
        return
    for value in (*args, *kwargs.values()):
        is_function = isinstance(value, functools.partial) or inspect.isroutine(value)
        if is_function and (type(value).__name__ in text or "'function'" in text):  # as some call a bound method, too
            exc.add_note(_HINT)
            return
