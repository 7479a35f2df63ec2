"""How a method is named on the wire. Pure.

`Service.method`, or `@module:Class.method` when the caller gave the function itself: which service has that class
is for the machine to find. Whoever started the machine knows as well (`ServiceNames`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bigmachine.errors import InvalidCall
from bigmachine.frozen import frozen

#: The module whose presence tells that the program may want spans of its calls: see `spans`.
TRACING_API = "opentelemetry.trace"
#: The keyword by which the context of a span travels with a call: no function can have a parameter of this name.
TRACE_KEYWORD = "bigmachine:trace"
#: What `name_of` has said lately: for who asks often, and looks here first.
known_names: dict[Any, str] = {}
_MOST_NAMES = 1024
#: So many names an error's text has, and looks among for the one that was meant.
_NAMED = 50


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


def classes_of(service: object) -> frozenset[tuple[str, str]]:
    """Return the class of a service and those that it is derived from, each as module and qualified name."""
    return frozenset((cls.__module__, cls.__qualname__) for cls in type(service).__mro__)


@frozen
class _Kind:
    """What is known of a service; `attributes`: None if it may have any."""

    classes: frozenset[tuple[str, str]]
    attributes: frozenset[str] | None


class ServiceNames:
    """The services that a machine was started with, as whoever started it knows them: what a wire name means there."""

    def __init__(self, services: Mapping[str, object]) -> None:
        # Not the services themselves: they may be large, and are not needed here once they have been sent.
        self._kinds = {name: _Kind(classes_of(service), _attributes(service)) for name, service in services.items()}

    def meanings(self, wire_name: str) -> frozenset[str]:
        """Return the `Service.method`s that a wire name can mean: several, if several services are of the class."""
        if not wire_name.startswith("@"):
            return frozenset((wire_name,))
        module, _, path = wire_name[1:].partition(":")
        qualname, _, method = path.rpartition(".")
        names = (name for name, kind in self._kinds.items() if (module, qualname) in kind.classes)
        return frozenset(f"{name}.{method}" for name in names)

    def told(self, wire_name: str) -> str:
        """Return a wire name as the machine tells it: with the service's name, if it means one."""
        meanings = self.meanings(wire_name)
        return next(iter(meanings)) if len(meanings) == 1 else shown(wire_name)

    def has(self, name: str) -> bool:
        """Tell whether there is such a `Service.method`."""
        service, _, method = name.rpartition(".")
        kind = self._kinds.get(service)
        return service == "Supervisor" or (kind is not None and (kind.attributes is None or method in kind.attributes))

    def instead(self, name: str) -> str:
        """Say what there is, for an error about a `Service.method` that there is not."""
        service, _, method = name.rpartition(".")
        kind = self._kinds.get(service)
        if kind is None or kind.attributes is None:
            return instead(service, sorted(self._kinds))
        return instead(method, sorted(a for a in kind.attributes if not a.startswith("_")))


def _attributes(service: object) -> frozenset[str] | None:
    if hasattr(type(service), "__getattr__"):
        return None
    return frozenset((*dir(type(service)), *getattr(service, "__dict__", ())))


def instead(wanted: str, there: list[str]) -> str:
    """Say what there is instead of what was wanted, for the end of an error's text."""
    import difflib  # for a mistake only

    named = there[:_NAMED]  # an agent has one for each machine, and its event loop other work to do
    close = difflib.get_close_matches(wanted, named, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
    return f"; there is {', '.join(named)}{more}" if there else "; there is none"
