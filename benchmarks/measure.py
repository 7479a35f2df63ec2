"""How every benchmark here measures, judges and reports.

Rules that all of them keep:

* A figure is the median of n samples, with p10..p90 beside it (min..max below 20 samples).
* The floor is what the same work costs without the library. It is measured in the same run, in turns with the figure,
  so that whatever else the computer does meets both; the ratio is ours to the floor's.
* Driver and machine are pinned to a core each, where there are two; what is printed says so.
* Everything is warmed up, garbage collection is on (as users have it), and byte code is there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any, Self

import bigmachine

MEBIBYTE = 2**20
#: Fewer samples than this have no percentiles to speak of.
_FEW = 20


@dataclass(frozen=True, slots=True)
class Stat:
    """What n samples come to."""

    n: int
    median: float
    low: float
    high: float
    p99: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        """Sum samples up."""
        ordered = sorted(samples)
        last = len(ordered) - 1
        low, high = (0, last) if len(ordered) < _FEW else (round(last * 0.1), round(last * 0.9))
        return cls(
            len(ordered), statistics.median(ordered), ordered[low], ordered[high], ordered[min(last, int(last * 0.99))]
        )

    @property
    def spread(self) -> str:
        """What `low` and `high` are."""
        return "min..max" if self.n < _FEW else "p10..p90"

    def per(self, amount: float) -> Self:
        """Turn seconds for an amount into a rate."""
        rates = [amount / seconds for seconds in (self.median, self.high, self.low, self.p99)]
        return replace(self, median=rates[0], low=rates[1], high=rates[2], p99=rates[3])


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row should reach: its median, its ratio to the floor, or the figure of a peer."""

    of: str  # "median", "ratio", or the name of a peer that has to be beaten
    limit: float = 0.0
    at_least: bool = False

    def judge(self, row: Row) -> tuple[str, bool | None]:
        """Say what is asked for, and whether it is so; None if what it compares with was not measured."""
        if self.of in ("median", "ratio"):
            value = row.stat.median if self.of == "median" else row.ratio
            text = f"{'>=' if self.at_least else '<='} {row.show(self.limit, self.of)}"
            return text, None if value is None else (value >= self.limit if self.at_least else value <= self.limit)
        peer = row.peers.get(self.of)
        text = f"{'above' if row.more_is_better else 'below'} {self.of}"
        if not isinstance(peer, Stat):
            return text, None
        return text, (row.stat.median > peer.median) == row.more_is_better


@dataclass(slots=True)
class Row:
    """One figure. `unit`: "s", "/s", "B", "B/s" or "x" (a plain number)."""

    name: str
    unit: str
    stat: Stat
    floor_name: str = ""
    floor: Stat | None = None
    goals: tuple[Goal, ...] = ()
    peers: dict[str, Stat | str] = field(default_factory=dict)
    note: str = ""

    @property
    def more_is_better(self) -> bool:
        return self.unit.endswith("/s")

    @property
    def ratio(self) -> float | None:
        """Ours to the floor's."""
        return None if self.floor is None else self.stat.median / self.floor.median

    def show(self, value: float, of: str = "median") -> str:
        """Write a value as people read it."""
        if of == "ratio":
            return f"{value:.0%}" if self.more_is_better else f"{value:.2f}x"
        return show(value, self.unit)

    def verdicts(self) -> list[tuple[str, bool | None]]:
        """Judge by each goal."""
        return [goal.judge(self) for goal in self.goals]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, verdicts included."""
        made = asdict(self)
        made["ratio"] = self.ratio
        made["verdicts"] = self.verdicts()
        return made

    @classmethod
    def from_dict(cls, made: dict[str, Any]) -> Self:
        """Make the row again."""
        return cls(
            name=made["name"],
            unit=made["unit"],
            stat=Stat(**made["stat"]),
            floor_name=made["floor_name"],
            floor=Stat(**made["floor"]) if made["floor"] else None,
            goals=tuple(Goal(**goal) for goal in made["goals"]),
            peers={name: stat if isinstance(stat, str) else Stat(**stat) for name, stat in made["peers"].items()},
            note=made["note"],
        )


def show(value: float, unit: str) -> str:
    """Write a value with its unit, in the size that fits it."""
    if unit == "s":
        return f"{value * 1e6:.1f} us" if value < 1e-3 else f"{value * 1e3:.2f} ms" if value < 1 else f"{value:.2f} s"
    if unit == "/s":
        return f"{value:,.0f}/s"
    if unit == "B":
        return f"{value / 1024:.1f} KiB" if value < MEBIBYTE else f"{value / MEBIBYTE:.1f} MiB"
    if unit == "B/s":
        return f"{value / 1e9:.2f} GB/s"
    return f"{value:.2f}"


def describe(row: Row) -> list[str]:
    """Write a row as lines of a table."""
    spread = f"{row.show(row.stat.low)} .. {row.show(row.stat.high)}"
    floor = "-" if row.floor is None else row.show(row.floor.median)
    ratio = "-" if row.ratio is None else row.show(row.ratio, "ratio")
    verdicts = [(text, {True: "ok", False: "MISSED", None: "not measured"}[good]) for text, good in row.verdicts()]
    goal = ", ".join(" ".join(verdict) for verdict in verdicts)
    lines = [
        f"  {row.name:<46}{row.show(row.stat.median):>12}  {spread:<28}{row.stat.n:>6}{floor:>13}{ratio:>8}  {goal}"
    ]
    for name, peer in row.peers.items():
        if isinstance(peer, str):
            lines.append(f"      {name:<42}{'-':>12}  {peer}")
        else:
            between = f"{row.show(peer.low)} .. {row.show(peer.high)}"
            lines.append(f"      {name:<42}{row.show(peer.median):>12}  {between:<28}{peer.n:>6}")
    if row.note:
        lines.append(f"      {row.note}")
    return lines


def table(title: str, conditions: str, rows: Sequence[Row]) -> str:
    """Write rows as a table."""
    lines = [title, f"  {conditions}"]
    lines += [f"  floor: {name}" for name in dict.fromkeys(row.floor_name for row in rows if row.floor_name)]
    lines.append(f"  {'':<46}{'median':>12}  {'p10..p90, or min..max':<28}{'n':>6}{'floor':>13}{'ratio':>8}  goal")
    for row in rows:
        lines += describe(row)
    return "\n".join(lines)


# the run


@dataclass(frozen=True, slots=True)
class Options:
    """How long to measure, and what."""

    quick: bool
    peers: bool

    def pick(self, quick: int, full: int) -> int:
        """Choose how often something is done."""
        return quick if self.quick else full


def parse() -> tuple[Options, argparse.Namespace]:
    """Read the command line that all benchmarks share."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--no-peers", action="store_true", help="leave the other libraries out")
    parser.add_argument(
        "--without", default="", metavar="PACKAGE", help="do as if it were not installed: aiofastnet,uvloop"
    )
    given = parser.parse_args()
    if sys.dont_write_bytecode:
        parser.error("without byte code another thing would be measured: unset PYTHONDONTWRITEBYTECODE and drop -B")
    for package in filter(None, given.without.split(",")):
        sys.modules[package] = None  # type: ignore[assignment]  # the documented way to make its import fail
    return Options(given.quick, not given.no_peers), given


def run(body: Callable[[Options], list[Row]]) -> None:
    """Be a benchmark that starts what it measures by itself."""
    options, given = parse()
    report(body(options), given)


def run_in_session(body: Callable[[bigmachine.Session, Options], list[Row]]) -> None:
    """Be a benchmark on local machines. A machine comes here, too, and stays in `start`."""
    options, given = parse()
    with bigmachine.start("local") as session:
        rows = body(session, options)
    report(rows, given)


def report(rows: Sequence[Row], given: argparse.Namespace) -> None:
    """Print what came out."""
    title = (sys.modules["__main__"].__doc__ or "").partition("\n")[0]
    if given.json:
        made = {"title": title, "conditions": conditions(given.without), "rows": [row.to_dict() for row in rows]}
        print(json.dumps(made))
    else:
        print(table(title, conditions(given.without), rows))


def conditions(without: str = "") -> str:
    """Say what was measured on what."""
    where = f"driver on core {DRIVER}, machine on core {MACHINE}" if _pinned else "nothing pinned"
    return " · ".join(
        (
            f"Python {platform.python_version()}",
            *([f"{name} {metadata.version(name)}" for name in engine()] or ["asyncio alone"]),
            *([f"without {without}"] if without else []),
            f"{len(_CORES)} cores, {where}",
            f"gc {'on' if gc.isenabled() else 'off'}",
            f"load of this computer {os.getloadavg()[0]:.1f}",
        )
    )


def engine() -> list[str]:
    """Name what carries the bytes beside asyncio."""
    return [name for name in ("uvloop", "aiofastnet") if _is_usable(name)]


def _is_usable(package: str) -> bool:
    try:
        __import__(package)
    except ImportError:
        return False
    return True


# cores

_CORES = sorted(os.sched_getaffinity(0))
DRIVER = _CORES[0]
MACHINE = _CORES[1 % len(_CORES)]
_pinned: list[int] = []


def pin(core: int) -> None:
    """Move every thread of this process to one core; those that they start later follow."""
    for task in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(task), {core})
        except ProcessLookupError:
            continue  # it has ended
    _pinned.append(core)


# samples


def take_turns(rounds: int, **subjects: Callable[[], Sequence[float]]) -> dict[str, Stat]:
    """Measure several subjects in turns, so that what disturbs one disturbs all; the first turn is the warm-up."""
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(rounds + 1):
        for name, subject in subjects.items():
            taken = subject()
            if turn:
                samples[name].extend(taken)
    return {name: Stat.of(taken) for name, taken in samples.items()}


def timed(step: Callable[[], object], n: int = 1) -> list[float]:
    """Time a step, n times."""
    clock = time.perf_counter
    samples = []
    for _ in range(n):
        begin = clock()
        step()
        samples.append(clock() - begin)
    return samples


async def timed_async(step: Callable[[], Awaitable[object]], n: int = 1) -> list[float]:
    """Time something that is awaited, n times."""
    clock = time.perf_counter
    samples = []
    for _ in range(n):
        begin = clock()
        await step()
        samples.append(clock() - begin)
    return samples


async def keep_in_flight(step: Callable[[], Awaitable[object]], callers: int, total: int) -> float:
    """Have so many callers await call after call; return the calls a second."""
    each = total // callers

    async def caller() -> None:
        for _ in range(each):
            await step()

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return each * callers / (time.perf_counter() - begin)
