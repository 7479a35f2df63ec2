"""A service's proxy: looks like the class to a type checker, and turns each method into a call.

What the class's plain methods return, the proxy's return, too. An `async def` method gives something to await in the
class, and so it does here: a `Call`, which has been sent already. The method is looked for in the services of this
class, also if the class has it from a base that other services share.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Protocol

from bigmachine.errors import InvalidCall


class Caller(Protocol):
    """What the calls are made with: a machine's handle."""

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any: ...

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> Any: ...


class _Proxy:
    """Stands for a service on a machine."""

    _machine: Caller
    _cls: type
    _name: str | None

    def __init__(self, machine: Caller, cls: type, name: str | None) -> None:
        self.__dict__.update(_machine=machine, _cls=cls, _name=name)

    def __getattr__(self, attribute: str) -> Callable[..., Any]:
        cls, name, machine = self._cls, self._name, self._machine
        if attribute.startswith("_"):
            raise AttributeError(f"{attribute!r} is private: only public methods of {cls.__qualname__} can be called")
        function = getattr(cls, attribute, None)
        if function is None or not callable(function):
            raise AttributeError(f"{cls.__qualname__} has no method {attribute!r}")
        method = f"@{cls.__module__}:{cls.__qualname__}.{attribute}" if name is None else f"{name}.{attribute}"
        return functools.partial(machine.submit if asyncio.iscoroutinefunction(function) else machine.call, method)

    def __setattr__(self, attribute: str, value: object) -> None:
        raise AttributeError(f"{self._cls.__qualname__}.{attribute} lives on the machine: set it in a method there")

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._cls) if not name.startswith("_") and callable(getattr(self._cls, name))]

    def __reduce__(self) -> tuple[object, ...]:
        return make_proxy, (self._machine, self._cls, self._name)

    def __repr__(self) -> str:
        return f"<proxy of {self._cls.__qualname__} on {self._machine!r}>"


def make_proxy(machine: Caller, cls: type, name: str | None) -> object:
    """Make a proxy whose methods are calls to `machine`.

    Raises: InvalidCall if `cls` is no class.
    """
    if not isinstance(cls, type):
        raise InvalidCall(f"service() takes the service's class, not {cls!r}")
    return _Proxy(machine, cls, name)
