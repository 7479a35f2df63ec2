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
        key = (stack, tuple(sorted(dict(labels).items())))
        known = self.samples.get(key)
        if known is None:
            if len(self.samples) >= MOST_STACKS:
                key = ((TRUNCATED,), key[1])
            known = self.samples.setdefault(key, [0] * len(self.kinds))
        for at, value in enumerate(values):
            known[at] += value

    def labelled(self, **labels: str) -> Profile:
        """Give the same with more labels on every sample."""
        other = Profile(self.kinds, {}, self.period, self.began, self.duration, list(self.comments))
        for (stack, old), values in self.samples.items():
            other.add(stack, values, {**dict(old), **labels})
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
            merged = Profile(profile.kinds, {}, profile.period, profile.began, profile.duration)
        elif merged.kinds != profile.kinds:
            raise ValueError(f"a profile of {profile.kinds} cannot be added to one of {merged.kinds}")
        merged.began = min(filter(None, (merged.began, profile.began)), default=0)
        merged.duration = max(merged.duration, profile.duration)
        merged.period = merged.period or profile.period
        merged.comments += profile.comments
        for (stack, labels), values in profile.samples.items():
            merged.add(stack, values, labels)
    if merged is None:
        raise ValueError("there is no profile to merge")
    return merged


def from_folded(text: str, *, hertz: float, labels: Mapping[str, str] | None = None) -> Profile:
    """Read what `py-spy record --format raw` writes: `frame;frame;frame count` a line, the outermost frame first.

    py-spy's first frame is `thread (0x...): "name"` where it was asked for threads; that becomes the label `thread`.
    Lines without a stack (it writes some) are skipped.
    """
    period = round(1e9 / hertz)
    profile = Profile((("samples", "count"), ("cpu", "nanoseconds")), period=period)
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        if not frames.strip() or not count.isdigit():
            continue
        stack, thread = _frames(frames)
        marks = {**(labels or {}), **({"thread": thread} if thread else {})}
        if stack:
            profile.add(stack, (int(count), int(count) * period), marks)
    return profile


_THREAD: Final = re.compile(r"thread \((?P<id>[^)]*)\)(?:: (?P<name>.*))?")
_PROCESS: Final = re.compile(r"process \d+:.*")


def _frames(text: str) -> tuple[Stack, str]:
    stack: list[Frame] = []
    thread = ""
    for part in text.split(";"):
        named = _THREAD.fullmatch(part)
        if named is not None and not stack:
            thread = (named["name"] or named["id"]).strip('"')
        elif not (_PROCESS.fullmatch(part) and not stack):
            stack.append(_frame(part))
    return tuple(stack), thread


def _frame(text: str) -> Frame:
    match = _FRAME.fullmatch(text)
    if match is None:
        return Frame(text)
    return Frame(match["name"], match["file"], int(match["line"] or 0))


def to_folded(profile: Profile, at: int = -1) -> str:
    """Write `frame;frame;frame number` a line, as flame graph tools read it; labels come first, as frames."""
    lines = []
    for (stack, labels), values in profile.samples.items():
        names = [f"{key}={value}" for key, value in labels] + [frame.function.replace(";", ":") for frame in stack]
        lines.append(f"{';'.join(names)} {values[at]}")
    return "\n".join(sorted(lines)) + "\n" if lines else ""


__all__ = ["MOST_STACKS", "TRUNCATED", "Frame", "Labels", "Profile", "Stack", "from_folded", "merge", "to_folded"]
