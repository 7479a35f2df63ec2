"""How a method is named on the wire. Pure.

`Service.method`, or `@module:Class.method` when the caller gave the function itself: which service has that class
is for the machine to find.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bigmachine.errors import InvalidCall

#: The module whose presence tells that the program may want spans of its calls: see `spans`.
TRACING_API = "opentelemetry.trace"
#: The keyword by which the context of a span travels with a call: no function can have a parameter of this name.
TRACE_KEYWORD = "bigmachine:trace"
#: What `name_of` has said lately: for who asks often, and looks here first.
known_names: dict[Any, str] = {}
_MOST_NAMES = 1024


def name_of(method: str | Callable[..., object]) -> str:
    """Return how a method is named on the wire.

    Raises: InvalidCall if it is neither a name nor a function that belongs to a class.
    """
    try:
        name = known_names.get(method)
    except TypeError:  # it cannot be hashed, so it is no function
        raise InvalidCall(f"{method!r} names no method") from None
    if name is None:
        name = method if type(method) is str else _name_of(method)  # type: ignore[arg-type]  # no str
        if len(known_names) >= _MOST_NAMES:
            known_names.clear()
        known_names[method] = name
    return name


def _name_of(method: Callable[..., object]) -> str:
    qualname: str = getattr(method, "__qualname__", "")
    if "." not in qualname or not callable(method):
        raise InvalidCall(
            f"{method!r} names no method: give a function of a class (CirclePi.sample) or a string ('PI.sample')"
        )
    owner = getattr(method, "__objclass__", method)  # a method written in C has no module of its own
    return f"@{owner.__module__}:{qualname}"


def shown(wire_name: str) -> str:
    """Return a wire name as people write it."""
    return wire_name.partition(":")[2] if wire_name.startswith("@") else wire_name
