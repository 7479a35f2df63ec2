"""Services by name, and which of their methods a call means.

A method is named `Service.method`, or `@module:Class.method` when the caller gave the function itself: then it is
looked up in the class of each service. Public means: no leading underscore, and callable on the instance.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from bigmachine.errors import InvalidCall, NetworkError
from bigmachine.frozen import frozen
from bigmachine.rpc.names import classes_of, instead


class Gate:
    """Lets a bounded number of a service's calls run at once; the others wait in order. On the loop's thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0
        self._waiting: deque[Any] = deque()

    def enter(self, run: Any) -> bool:
        """Tell whether a run may begin now; otherwise it will be among those that `leave` returns."""
        if self._running < self._limit:
            self._running += 1
            return True
        self._waiting.append(run)
        return False

    def leave(self) -> list[Any]:
        """Note that a run is over; return those that begin now, also if nobody wants them any more: that they see.

        Left out, such a run would have no outcome, and another attempt of its call could wait for it.
        """
        self._running -= 1
        begin = []
        while self._waiting and self._running < self._limit:
            self._running += 1
            begin.append(self._waiting.popleft())
        return begin


@frozen
class Method:
    """A callable method: `is_async` if calling it makes a coroutine for the event loop; `gate` bounds its service."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    gate: Gate | None = None


class NotYetOpen(NetworkError):
    """A machine does not have all its services yet."""


class ServiceTable:
    """The services of one machine. Until it `is_open`, a service that is missing may still come."""

    def __init__(self, *, is_open: bool = True) -> None:
        self._is_open = is_open
        self._when_open: list[Callable[[], object]] = []
        self._services: dict[str, object] = {}
        self._found: dict[str, Method] = {}
        self._gates: dict[str, Gate] = {}

    def register(self, name: str, service: object) -> bool:
        """Add a service; False if the name exists already: the first is kept (`Register` of the Go original).

        Raises: InvalidCall if the name cannot be called.
        """
        if not name or name.startswith(("_", "@")) or any(c in name for c in "/:\n\r\0"):
            raise InvalidCall(f"{name!r} cannot name a service: use letters, digits, '-' and '_'")
        if name in self._services:
            return False
        limit = getattr(service, "max_concurrency", None)
        if limit is not None:
            if type(limit) is not int or limit < 1:
                raise InvalidCall(
                    f"service {name!r}: its max_concurrency is {limit!r}, it has to be an int of at least 1"
                )
            self._gates[name] = Gate(limit)
        self._services[name] = service
        self._found.clear()
        return True

    def open(self) -> None:
        """Say that all services are there that the machine was started with."""
        self._is_open = True
        waiting, self._when_open = self._when_open, []
        for function in waiting:
            function()

    def when_open(self, function: Callable[[], object]) -> None:
        """Have `function` called as soon as the table is open."""
        self._when_open.append(function)

    def remove(self, name: str) -> None:
        """Take a service away, if it is there."""
        self._services.pop(name, None)
        self._gates.pop(name, None)
        self._found.clear()

    def names(self) -> list[str]:
        """Return the services' names, sorted."""
        return sorted(self._services)

    def get(self, name: str) -> object | None:
        """Return a service, or None."""
        return self._services.get(name)

    def known(self, name: str) -> Method | None:
        """Return the method that a wire name means if it has been found before; from any thread."""
        return self._found.get(name)

    def find(self, name: str) -> Method:
        """Return the method that a wire name means.

        Raises: InvalidCall, saying what there is; NotYetOpen, if it may still come.
        """
        try:
            return self._found[name]
        except KeyError:
            pass
        try:
            method = self._found[name] = self._look_up(name)
        except InvalidCall as exc:
            if self._is_open:
                raise
            raise NotYetOpen(f"this machine does not have its services yet: {exc}") from exc
        return method

    def _look_up(self, name: str) -> Method:
        service_name, dot, method_name = name.rpartition(".")
        if not dot:
            raise InvalidCall(f"{name!r} names no method: it has to be 'Service.method'")
        if service_name.startswith("@"):
            service_name = self._service_of(*service_name[1:].rpartition(":")[::2], method_name)
        service = self._services.get(service_name)
        if service is None:
            raise InvalidCall(f"no service {service_name!r} on this machine{instead(service_name, self.names())}")
        function = None if method_name.startswith("_") else _attribute(service, service_name, method_name)
        if function is None or not callable(function):
            raise InvalidCall(
                f"service {service_name!r} ({type(service).__qualname__}) has no public method "
                f"{method_name!r}{instead(method_name, public_methods(service))}"
            )
        return Method(f"{service_name}.{method_name}", function, _is_async(function), self._gates.get(service_name))

    def _service_of(self, module: str, qualname: str, method: str) -> str:
        matches = [name for name, service in self._services.items() if (module, qualname) in classes_of(service)]
        if len(matches) == 1:
            return matches[0]
        if not matches:
            raise InvalidCall(f"no service of class {qualname} on this machine{instead(qualname, self.names())}")
        derived = any(type(self._services[name]).__qualname__ != qualname for name in matches)
        of_class = f"of class {qualname}{' or of classes derived from it' if derived else ''}"
        raise InvalidCall(
            f"{len(matches)} services are {of_class} ({', '.join(sorted(matches))}): "
            f"name the one you mean, as in '{min(matches)}.{method}'"
        )


def _attribute(service: object, service_name: str, name: str) -> Any:
    try:
        return getattr(service, name, None)
    except Exception as exc:  # a property, or a __getattr__: the user's code
        raise InvalidCall(f"looking up {service_name}.{name} raised {type(exc).__name__}: {exc}") from exc


def public_methods(service: object) -> list[str]:
    """Return the names of the methods that can be called, sorted."""
    kind = type(service)
    return sorted(name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name, None)))


def _is_async(function: Callable[..., Any]) -> bool:
    if isinstance(function, types.MethodType):
        function = function.__func__
    return asyncio.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
