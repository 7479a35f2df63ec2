"""What a URL asks of a profile: the part behind its question mark, read strictly. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field
from typing import Final
from urllib.parse import parse_qsl

from bigmachine.frozen import frozen

#: The profiles at Go's names, and what they are called here.
PROFILES: Final[Mapping[str, str]] = {
    "profile": "cpu",
    "heap": "heap",
    "goroutine": "goroutine",
    "mutex": "mutex",
    "gil": "gil",
}
_SWITCHES: Final = ("gc", "native", "idle", "gil", "nonblocking")
#: What each parameter does, for the page that lists them.
PARAMETERS: Final[Mapping[str, str]] = {
    "seconds": "how long to sample; of a heap, how long to note allocations",
    "machine": "only this one, by name or address; may be given several times",
    "debug": "1 or 2: as text",
    "format": "pprof, folded, speedscope, svg or text",
    "gc": "1: of a heap, collect garbage before",
    "driver": "1: this program's own process, too",
    "hertz": "samples a second",
    "native": "1: frames in C, too",
    "idle": "1: threads that wait, too",
    "gil": "1: only who holds the interpreter's lock",
    "nonblocking": "0: stop the process for each sample",
    "mode": "of a heap: types, tracemalloc or memray",
}


@frozen
class Wanted:
    """A profile that somebody wants, as `Session.profile` takes it; `format` is empty if it was not said."""

    seconds: float | None = None
    machines: tuple[str, ...] = ()
    format: str = ""
    debug: int = 0
    driver: bool = False
    options: dict[str, object] = field(default_factory=dict)


def parameters(query: str, there: Collection[str]) -> list[tuple[str, str]]:
    """Take a query apart.

    Raises:
        ValueError: if it has a parameter that is not among those that there are.
    """
    given = parse_qsl(query, keep_blank_values=True)
    for name, _ in given:
        if name not in there:
            raise ValueError(f"no parameter {name!r}: there is {', '.join(there) or 'none'}")
    return given


def wanted(query: str) -> Wanted:
    """Read a query.

    Raises:
        ValueError: if it has a parameter that there is not, or one with a value that it does not take.
    """
    given = parameters(query, PARAMETERS)
    last = dict(given)
    options: dict[str, object] = {name: _switch(name, last[name]) for name in _SWITCHES if name in last}
    if "hertz" in last:
        options["hertz"] = _number("hertz", last["hertz"], int)
    if "mode" in last:
        options["mode"] = last["mode"]
    return Wanted(
        seconds=_number("seconds", last["seconds"], float) if last.get("seconds") else None,
        machines=tuple(value for name, value in given if name == "machine" and value),
        format=last.get("format", ""),
        debug=int(_number("debug", last.get("debug") or "0", int)),
        driver=_switch("driver", last.get("driver", "0")),
        options=options,
    )


def _number(name: str, value: str, kind: type[int | float]) -> int | float:
    try:
        return kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name}={value!r}: it has to be {what}") from None


def _switch(name: str, value: str) -> bool:
    if value not in ("0", "1"):
        raise ValueError(f"{name}={value!r}: it has to be 0 or 1")
    return value == "1"
