"""A service's proxy: looks like the class to a type checker, and turns each method into a call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from bigmachine.errors import InvalidCall


class _Proxy:
    """Stands for a service on a machine."""

    def __init__(self, call: Callable[..., Any], cls: type, name: str | None) -> None:
        self.__dict__.update(_call=call, _cls=cls, _name=name)

    def __getattr__(self, attribute: str) -> Callable[..., Any]:
        cls = self.__dict__["_cls"]
        if attribute.startswith("_"):
            raise AttributeError(f"{attribute!r} is private: only public methods of {cls.__qualname__} can be called")
        function = getattr(cls, attribute, None)
        if function is None or not callable(function):
            raise AttributeError(f"{cls.__qualname__} has no method {attribute!r}")
        name = self.__dict__["_name"]
        method = function if name is None else f"{name}.{attribute}"
        return functools.partial(self.__dict__["_call"], method)

    def __setattr__(self, attribute: str, value: object) -> None:
        cls = self.__dict__["_cls"]
        raise AttributeError(f"{cls.__qualname__}.{attribute} lives on the machine: set it in a method there")

    def __repr__(self) -> str:
        return f"<proxy of {self.__dict__['_cls'].__qualname__}>"


def make_proxy(call: Callable[..., Any], cls: type, name: str | None) -> object:
    """Make a proxy whose methods call `call(method, ...)`.

    Raises: InvalidCall if `cls` is no class.
    """
    if not isinstance(cls, type):
        raise InvalidCall(f"service() takes the service's class, not {cls!r}")
    return _Proxy(call, cls, name)
