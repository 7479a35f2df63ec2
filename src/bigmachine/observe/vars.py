"""A program's own numbers, to be seen from the driver [Go: expvar]: `bigmachine.vars`.

    REQUESTS = bigmachine.vars.counter("requests", "requests answered")
    REQUESTS.inc()

A name is made once; asking again gives the same variable, so a module may be imported twice. Counting costs about as
much as a method call. What all machines have under one name is added up at the driver: counters and gauges by their
sum, histograms by their buckets, so that quantiles hold for the whole cluster.
"""

from __future__ import annotations

import math
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from bigmachine.frozen import frozen

#: Histograms have four buckets for every power of two, so a quantile is right within a fifth.
_STEPS: Final = 4
_LOWEST, _HIGHEST = -30, 40  # as powers of two: from a nanosecond to twelve days, from bytes to terabytes
BOUNDS: Final[tuple[float, ...]] = tuple(
    2.0 ** (_LOWEST + step / _STEPS) for step in range((_HIGHEST - _LOWEST) * _STEPS + 1)
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class Counter:
    """A number that only grows."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: float = 0

    def inc(self, n: float = 1) -> None:
        """Add `n`.

        Raises:
            ValueError: if it is below zero: what goes up and down is a gauge.
        """
        if n < 0:
            raise ValueError(f"inc({n}): a counter only grows; a gauge goes both ways")
        with self._lock:
            self._value += n

    @property
    def value(self) -> float:
        """The number now."""
        return self._value

    def read(self) -> Reading:
        """Give it as a value."""
        return Reading("counter", self._value)


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: float = 0

    def set(self, value: float) -> None:
        """Make it `value`."""
        self._value = value

    def add(self, n: float = 1) -> None:
        """Add `n`, which may be below zero."""
        with self._lock:
            self._value += n

    @property
    def value(self) -> float:
        """The number now."""
        return self._value

    def read(self) -> Reading:
        """Give it as a value."""
        return Reading("gauge", self._value)


class Histogram:
    """How often which sizes or times came; of positive numbers, in any unit."""

    __slots__ = ("_buckets", "_count", "_lock", "_sum")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[int, int] = {}
        self._count = 0
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one. What is zero, negative or no number goes into the lowest bucket."""
        at = bisect_left(BOUNDS, value) if value > 0 else 0
        with self._lock:
            self._buckets[at] = self._buckets.get(at, 0) + 1
            self._count += 1
            self._sum += value

    def read(self) -> Reading:
        """Give it as a value."""
        with self._lock:
            return Reading("histogram", self._sum, self._count, tuple(sorted(self._buckets.items())))


class Info:
    """Facts that do not change, such as a version."""

    __slots__ = ("facts",)

    def __init__(self) -> None:
        self.facts: Mapping[str, str] = {}

    def read(self) -> Reading:
        """Give them as a value."""
        return Reading("info", 1, facts=tuple(sorted(self.facts.items())))


class Callback:
    """A number that is asked for when somebody looks."""

    __slots__ = ("function",)

    def __init__(self) -> None:
        self.function: Callable[[], float] | None = None

    def read(self) -> Reading:
        """Ask; what fails or is no number is not a number."""
        try:
            return Reading("gauge", float(self.function() if self.function else math.nan))
        except Exception:  # noqa: BLE001 (the program's own; looking at it must not end anything)
            return Reading("gauge", math.nan)


@frozen
class Reading:
    """A variable at one moment. `value` is the number, or a histogram's sum; `buckets` has (index in BOUNDS, count)."""

    kind: str
    value: float
    count: int = 0
    buckets: tuple[tuple[int, int], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    help: str = ""

    def with_(self, other: Reading) -> Reading:
        """Add what another machine has under this name."""
        if self.kind != other.kind or self.kind == "info":
            return self
        buckets = dict(self.buckets)
        for at, count in other.buckets:
            buckets[at] = buckets.get(at, 0) + count
        return Reading(
            self.kind,
            self.value + other.value,
            self.count + other.count,
            tuple(sorted(buckets.items())),
            help=self.help,
        )

    def quantile(self, share: float) -> float:
        """Return what `share` of a histogram's values did not exceed, rounded up to its bucket's end; 0 if empty."""
        wanted, seen = share * self.count, 0
        for at, count in self.buckets:
            seen += count
            if seen >= wanted:
                return BOUNDS[min(at, len(BOUNDS) - 1)]
        return 0.0

    def plain(self) -> object:
        """Give it as JSON has it."""
        if self.kind == "info":
            return dict(self.facts)
        if self.kind == "histogram":
            quantiles = {f"p{round(share * 100)}": self.quantile(share) for share in (0.5, 0.9, 0.99)}
            return {"count": self.count, "sum": self.value, **quantiles}
        return None if math.isnan(self.value) else self.value


Variable = Counter | Gauge | Histogram | Info | Callback
V = TypeVar("V", Counter, Gauge, Histogram, Info, Callback)


class Registry:
    """Variables by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._variables: dict[str, tuple[Variable, str]] = {}

    def get(self, name: str, make: Callable[[], V], help: str) -> V:  # noqa: A002 (the field's word)
        """Give the variable of this name, made now if there is none.

        Raises:
            ValueError: if the name cannot be one.
            TypeError: if there is one of another kind.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be a variable's name: use letters, digits, underscores and dots")
        with self._lock:
            found, _ = self._variables.setdefault(name, (make(), help))
        if type(found) is not make:
            raise TypeError(f"there is a variable {name!r} already, and it is a {type(found).__name__.lower()}")
        return found  # type: ignore[return-value]  # its type was just compared

    def read(self) -> dict[str, Reading]:
        """Give all of them as they are now."""
        with self._lock:
            listed = list(self._variables.items())
        told = {}
        for name, (variable, text) in listed:
            reading = variable.read()
            told[name] = Reading(reading.kind, reading.value, reading.count, reading.buckets, reading.facts, text)
        return told


#: The process's own: modules make variables while they are imported.
_registry = Registry()


def counter(name: str, help: str = "") -> Counter:  # noqa: A002 (the field's word)
    """Give the counter of this name: a number that only grows, such as requests answered.

    Raises:
        ValueError: if the name cannot be one.
        TypeError: if there is a variable of another kind by this name.
    """
    return _registry.get(name, Counter, help)


def gauge(name: str, help: str = "") -> Gauge:  # noqa: A002
    """Give the gauge of this name: a number that goes up and down, such as a queue's length. Raises as `counter`."""
    return _registry.get(name, Gauge, help)


def histogram(name: str, help: str = "") -> Histogram:  # noqa: A002
    """Give the histogram of this name, of times or sizes; quantiles are right within a fifth. Raises as `counter`."""
    return _registry.get(name, Histogram, help)


def info(name: str, **facts: object) -> None:
    """Say facts that do not change, such as `info("model", version="3")`. Raises as `counter`."""
    _registry.get(name, Info, "").facts = {key: str(value) for key, value in facts.items()}


def callback(name: str, function: Callable[[], float], help: str = "") -> None:  # noqa: A002
    """Let `function` be asked for a number whenever somebody looks; it should return at once. Raises as `counter`."""
    _registry.get(name, Callback, help).function = function


def read() -> dict[str, Reading]:
    """Give all variables of this process as they are now."""
    return _registry.read()


def merged(machines: Iterable[Mapping[str, Reading]]) -> dict[str, Reading]:
    """Add up what several machines have."""
    told: dict[str, Reading] = {}
    for readings in machines:
        for name, reading in readings.items():
            told[name] = reading if name not in told else told[name].with_(reading)
    return told


__all__ = [
    "BOUNDS",
    "Callback",
    "Counter",
    "Gauge",
    "Histogram",
    "Info",
    "Reading",
    "Registry",
    "callback",
    "counter",
    "gauge",
    "histogram",
    "info",
    "merged",
    "read",
]
