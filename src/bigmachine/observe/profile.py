"""A profile as a value: stacks with labels and what was measured on them; merging, and reading py-spy's output. Pure.

Stacks are kept as a table rather than as pprof's linked records, so that the profiles of many machines are merged by
adding numbers, and encoded once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

#: More different stacks than this are not kept; the rest is counted under one frame that says so.
MOST_STACKS: Final = 200_000

_FRAME: Final = re.compile(r"(?P<name>.*) \((?P<file>.*?)(?::(?P<line>\d+))?\)")


class Frame(NamedTuple):
    """One frame: the function's qualified name, its file, and the line in it that was running (0: not known)."""

    function: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{self.function} ({where})" if where else self.function


#: Where samples without a place go once there are too many different stacks.
TRUNCATED: Final = Frame("[truncated: too many different stacks]")

#: A stack, its outermost frame first.
Stack = tuple[Frame, ...]
#: Labels such as ("machine", "m1"), sorted by name.
Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Profile:
    """What was measured on which stacks.

    `kinds` are the measures as (name, unit), such as ("cpu", "nanoseconds"); every sample has one number for each.
    `period` is what one sample stands for in the last of them. `began` is nanoseconds since the epoch, `duration` is
    nanoseconds. `comments` say what a reader must know, such as which machine is missing.
    """

    kinds: tuple[tuple[str, str], ...]
    samples: dict[tuple[Stack, Labels], list[int]] = field(default_factory=dict)
    period: int = 0
    began: int = 0
    duration: int = 0
    comments: list[str] = field(default_factory=list)

    def add(self, stack: Stack, values: Iterable[int], labels: Mapping[str, str] | Labels = ()) -> None:
        """Count a sample."""
        key = (stack, labels if isinstance(labels, tuple) else tuple(sorted(labels.items())))
        known = self.samples.get(key)
        if known is None:
            if len(self.samples) >= MOST_STACKS:
                key = ((TRUNCATED,), key[1])
            known = self.samples.setdefault(key, [0] * len(self.kinds))
        for at, value in enumerate(values):
            known[at] += value

    def take(self, other: Profile, **labels: str) -> None:
        """Add the samples of another profile, with more labels on each: one pass, and no copy of it in between.

        Raises:
            ValueError: if it measures something else.
        """
        if other.kinds != self.kinds:
            raise ValueError(f"a profile of {other.kinds} cannot be added to one of {self.kinds}")
        self.began = min(filter(None, (self.began, other.began)), default=0)
        self.duration = max(self.duration, other.duration)
        self.period = self.period or other.period
        self.comments += other.comments
        more: dict[Labels, Labels] = {}  # a machine has some dozens of different labels, and thousands of stacks
        samples = self.samples
        for (stack, old), values in other.samples.items():
            new = more.get(old)
            if new is None:
                new = more[old] = tuple(sorted({**dict(old), **labels}.items())) if labels else old
            if (stack, new) in samples or len(samples) >= MOST_STACKS:
                self.add(stack, values, new)
            else:
                samples[stack, new] = list(values)

    def labelled(self, **labels: str) -> Profile:
        """Give the same with more labels on every sample."""
        other = Profile(self.kinds)
        other.take(self, **labels)
        return other

    def total(self, at: int = -1) -> int:
        """Sum one measure over all samples."""
        return sum(values[at] for values in self.samples.values())


def merge(profiles: Iterable[Profile]) -> Profile:
    """Add profiles of the same kind.

    Raises:
        ValueError: if they measure different things, or there is none.
    """
    merged: Profile | None = None
    for profile in profiles:
        if merged is None:
            merged = Profile(profile.kinds)
        merged.take(profile)
    if merged is None:
        raise ValueError("there is no profile to merge")
    return merged


def from_folded(text: str, *, hertz: float, labels: Mapping[str, str] | None = None, measure: str = "cpu") -> Profile:
    """Read what `py-spy record --format raw` writes, see `FoldedReader`."""
    reader = FoldedReader(hertz, measure)
    reader.read(text, labels or {})
    return reader.profile


_RATE: Final = re.compile(r"# sampled at (\d+) Hz\n")


def rate_line(hertz: int) -> str:
    """Write the line before folded stacks that says how often they were sampled; other readers take it for no stack."""
    return f"# sampled at {hertz} Hz\n"


def rate_of(text: str) -> int | None:
    """Tell how often folded stacks were sampled, if they say so themselves."""
    found = _RATE.match(text)
    return max(1, int(found[1])) if found else None


_THREAD: Final = re.compile(r"thread \((?P<id>[^)]*)\)(?:: (?P<name>.*))?")


class FoldedReader:
    """Reads what py-spy sampled on several machines into one `profile`: `frame;frame;frame count` a line.

    The outermost frame comes first. Before it stands `thread (0x...): "name"` where py-spy was asked for threads; that
    becomes the label `thread`. Where a service's method is on the stack, its class is the label `service`. Lines
    without a stack (py-spy writes some) are skipped. `measure` is what a sample stands for, in nanoseconds.

    What one machine's stacks look like is remembered: the machines of a program have most of them in common.
    """

    def __init__(self, hertz: float, measure: str = "cpu") -> None:
        self._period = round(1e9 / hertz)
        self.profile = Profile((("samples", "count"), (measure, "nanoseconds")), period=self._period)
        self._frames: dict[str, Frame] = {}
        self._stacks: dict[str, tuple[Stack, str]] = {}
        self._threads: dict[str, str] = {}

    def read(self, text: str, labels: Mapping[str, str]) -> int:
        """Add one machine's samples; gives how many there were."""
        marks: dict[tuple[str, str], Labels] = {}
        rate = rate_of(text)
        period = self._period if rate is None else round(1e9 / rate)
        total = 0
        for line in text.splitlines():
            names, _, count = line.rpartition(" ")
            if not names.strip() or not count.isdigit():
                continue
            thread, rest = self._thread(names)
            known = self._stacks.get(rest)
            if known is None:
                known = self._stacks[rest] = self._stack(rest)
            stack, service = known
            if not stack:
                continue
            own = marks.get((thread, service))
            if own is None:
                more = {"thread": thread, "service": service}
                own = tuple(sorted({**labels, **{key: value for key, value in more.items() if value}}.items()))
                marks[thread, service] = own
            number = int(count)
            total += number
            self.profile.add(stack, (number, number * period), own)
        return total

    def _thread(self, text: str) -> tuple[str, str]:
        """Take what is said of process and thread from the front of a line."""
        thread = ""
        while text.startswith(("thread (", "process ")):
            first, _, rest = text.partition(";")
            known = self._threads.get(first)
            if known is None:
                named = _THREAD.fullmatch(first)
                if named is None and not _PROCESS.fullmatch(first):
                    break
                known = (named["name"] or named["id"]).strip('"') if named is not None else ""
                self._threads[first] = known
            thread, text = known or thread, rest
        return thread, text

    def _stack(self, text: str) -> tuple[Stack, str]:
        frames = self._frames
        stack = []
        for part in text.split(";") if text else ():
            frame = frames.get(part)
            if frame is None:
                frame = frames[part] = _frame(part)
            stack.append(frame)
        return tuple(stack), service_of(tuple(stack))


_PROCESS: Final = re.compile(r"process \d+:.*")


def _frame(text: str) -> Frame:
    match = _FRAME.fullmatch(text)
    if match is None:
        return Frame(text)
    return Frame(match["name"], match["file"], int(match["line"] or 0))


#: Where the library calls a method: the frames right inside of these are the services' own.
_CALLERS: Final = tuple(f"bigmachine/rpc/{name}.py" for name in ("runs", "workers", "outgoing", "spans"))
_LIBRARY: Final = "bigmachine/rpc/"


def service_of(stack: Stack) -> str:
    """Name the class of the service whose method runs on a stack; "" if none does.

    It is read from the stack alone: a method is called by one of a few modules of ours, and its qualified name begins
    with its class. A decorator's wrapper has no class, so the frame inside of it counts.
    """
    was_ours = False
    for frame in stack:
        if frame.file.endswith(_CALLERS):
            was_ours = True
        elif was_ours and frame.file.endswith(".py"):
            if _LIBRARY in frame.file:
                was_ours = False
                continue
            owner = frame.function.rpartition(".")[0].rpartition("<locals>")[2].strip(".")
            if owner:
                return owner
    return ""


def to_folded(profile: Profile, at: int = -1) -> str:
    """Write `frame;frame;frame number` a line, as flame graph tools read it; labels come first, as frames."""
    lines = []
    for (stack, labels), values in profile.samples.items():
        names = [f"{key}={value}" for key, value in labels] + [frame.function.replace(";", ":") for frame in stack]
        lines.append(f"{';'.join(names)} {values[at]}")
    return "\n".join(sorted(lines)) + "\n" if lines else ""


__all__ = [
    "MOST_STACKS",
    "TRUNCATED",
    "FoldedReader",
    "Frame",
    "Labels",
    "Profile",
    "Stack",
    "from_folded",
    "merge",
    "rate_line",
    "rate_of",
    "service_of",
    "to_folded",
]
