"""`frozen`: a frozen, slotted dataclass whose methods cost nothing until they are used.

`dataclasses` writes six methods of every frozen class as source text and compiles them, 0.5 ms a class: for the
50 classes of a driver and the 45 of its agent that was a fifth of the time that local machines took to start. Here
`__init__` is compiled when it is first looked up, which most classes of a process never are, and the rest are
ordinary functions: 0.03 ms a class. All else is as with `@dataclass(frozen=True, slots=True)`, also for `fields`,
`replace`, `asdict`, pickles, `match` and type checkers.
"""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, TypeVar, cast, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class _Factory:
    """Stands for a value that a factory makes, in signatures too."""

    def __repr__(self) -> str:
        return "<factory>"


_ABSENT = _Factory()


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[_T]) -> type[_T]:
    """Make a class a frozen dataclass: its annotations are its fields.

    What it defines itself stays. Of the options of `dataclasses.field`, `default`, `default_factory`, `repr` and
    `compare` count.
    """
    made: Any = dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    what = made.__dataclass_params__
    what.init = what.repr = what.eq = what.frozen = True  # for classes that are derived from it
    names = [each.name for each in fields(made) if each.compare]
    compared = attrgetter(*names) if names else _nothing
    for name, method in {
        "__init__": _Init(made),
        "__repr__": _repr,
        "__eq__": _equality(compared),
        "__hash__": _hash(compared),
        "__setattr__": _refuse_assignment,
        "__delattr__": _refuse_deletion,
        "__getstate__": _state,
        "__setstate__": _restore,
    }.items():
        if cls.__dict__.get(name) is None:
            setattr(made, name, method)
    return cast("type[_T]", made)


class _Init:
    """An `__init__` that is compiled when somebody looks for it."""

    def __init__(self, cls: type) -> None:
        self._cls: Any = cls

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        self._cls.__init__ = init = _compiled(self._cls)
        return init.__get__(instance, owner)


def _compiled(cls: Any) -> Any:
    scope: dict[str, Any] = {"__name__": cls.__module__, "_set": object.__setattr__, "_absent": _ABSENT}
    parameters, lines = ["self"], []
    for each in fields(cls):
        name, default = each.name, f"_default_{each.name}"
        if each.default is not MISSING:
            scope[default] = each.default
            parameters.append(f"{name}={default}")
        elif each.default_factory is not MISSING:
            scope[default] = each.default_factory
            parameters.append(f"{name}=_absent")
            lines.append(f"if {name} is _absent: {name} = {default}()")
        else:
            parameters.append(name)
        lines.append(f"_set(self, {name!r}, {name})")
    if hasattr(cls, "__post_init__"):
        lines.append("self.__post_init__()")
    body = "\n ".join(lines) or "pass"
    exec(f"def __init__({', '.join(parameters)}):\n {body}", scope)  # noqa: S102 (of names of attributes)
    init = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {**{each.name: each.type for each in fields(cls)}, "return": None}
    return init


def _nothing(_: object) -> tuple[()]:
    return ()


@recursive_repr()
def _repr(self: Any) -> str:
    shown = [f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr]
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _equality(compared: Callable[[object], object]) -> Callable[[object, object], bool]:
    def equal(self: object, other: object) -> bool:
        return compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented

    return equal


def _hash(compared: Callable[[object], object]) -> Callable[[object], int]:
    return lambda self: hash(compared(self))


def _refuse_assignment(_self: object, name: str, _value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deletion(_self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[object]:
    return [getattr(self, each.name) for each in fields(self)]


def _restore(self: Any, state: list[object]) -> None:
    for each, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)


__all__ = ["frozen"]
