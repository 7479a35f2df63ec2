"""What can be collected from machines, and the options that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from bigmachine.agent.watch.pyspy import FASTEST
from bigmachine.errors import InvalidCall
from bigmachine.frozen import frozen

#: Beyond the time that collecting takes by itself: for a machine to answer and its answer to travel.
PATIENCE: Final = 10.0
_LONGEST: Final = 3600.0


@frozen
class Kind:
    """A kind of profile. `seconds`: how long it takes if nobody says; None: it is of one moment.

    `options` are the names that it takes, with their types; `patience` is how long a machine may take beyond `seconds`.
    """

    name: str
    help: str
    seconds: float | None
    options: Mapping[str, type]
    takes_seconds: bool = False
    patience: float = PATIENCE


_SAMPLED: Final = {"hertz": int, "native": bool, "idle": bool, "nonblocking": bool}

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("cpu", "what runs, sampled", 30.0, {**_SAMPLED, "gil": bool}, takes_seconds=True),
        Kind("gil", "who holds the interpreter's lock, sampled", 30.0, _SAMPLED, takes_seconds=True),
        # A census may take its ten seconds; garbage collected before it takes some, too.
        Kind("heap", "what memory holds", None, {"gc": bool, "mode": str}, takes_seconds=True, patience=15.0),
        Kind("goroutine", "where threads and tasks are", None, {}, patience=8.0),
        Kind("mutex", "who has waited for locks", None, {}),
    )
}


def kind_of(name: str) -> Kind:
    """Find a kind.

    Raises:
        InvalidCall: if there is none of this name.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise InvalidCall(f"no such profile {name!r}: there is {', '.join(sorted(KINDS))}")
    return kind


def checked_seconds(kind: Kind, seconds: float | None) -> float | None:
    """Give how long to collect; None: it is of one moment.

    Raises:
        InvalidCall: if that is no time.
    """
    if seconds is None or not kind.takes_seconds:
        return kind.seconds
    given: object = seconds
    if not isinstance(given, int | float) or isinstance(given, bool) or not 0 < given <= _LONGEST:
        raise InvalidCall(f"seconds={seconds!r}: it has to be a number above 0, and at most {_LONGEST:g}")
    return float(given)


def checked_options(kind: Kind, options: Mapping[str, object]) -> dict[str, object]:
    """Give the options, 0 and 1 as what they stand for.

    Raises:
        InvalidCall: if the kind does not take one of them, or not such a value.
    """
    checked: dict[str, object] = {}
    for name, value in options.items():
        wanted = kind.options.get(name)
        if wanted is None:
            there = ", ".join(sorted([*kind.options, *(["seconds"] if kind.takes_seconds else [])])) or "none"
            raise InvalidCall(f"the profile {kind.name!r} has no option {name!r}: there is {there}")
        is_switch = wanted is bool and type(value) is int and value in (0, 1)
        if type(value) is not wanted and not is_switch:
            raise InvalidCall(f"{name}={value!r}: it has to be of type {wanted.__name__}")
        checked[name] = bool(value) if is_switch else value
    if not 1 <= cast(int, checked.get("hertz", 1)) <= FASTEST:
        raise InvalidCall(f"hertz={checked['hertz']}: it has to be from 1 to {FASTEST}")
    return checked


__all__ = ["KINDS", "PATIENCE", "Kind", "checked_options", "checked_seconds", "kind_of"]
