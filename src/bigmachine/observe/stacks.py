"""Where threads and asyncio tasks are [Go: goroutine], as values: as text in full or by groups, and as a profile. Pure.

How they are found in a running process is in `walker`; what py-spy saw from outside is read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from bigmachine.frozen import frozen
from bigmachine.observe.profile import Frame, Profile, Stack, service_of

KINDS: Final = (("goroutine", "count"),)
#: Names that asyncio and threading make up say nothing, and would keep equal stacks apart.
_MADE_UP: Final = re.compile(
    r"Task-\d+|Thread-\d+( \(.*\))?|asyncio_\d+|ThreadPoolExecutor-\d+_\d+|bigmachine(-call)?-\d+"
)


@frozen
class Standing:
    """A thread or a task, and where it stands: its outermost frame first.

    `note` says what it waits for, or whether it ran, as far as that can be seen.
    """

    kind: Literal["thread", "task"]
    name: str
    stack: Stack
    note: str = ""

    @property
    def has_own_name(self) -> bool:
        """Whether somebody gave it its name."""
        return not _MADE_UP.fullmatch(self.name)


def as_profile(standing: Iterable[Standing], **labels: str) -> Profile:
    """Count how many stand where, with the labels `thread` or `task` for names that somebody gave, and `service`."""
    profile = Profile(KINDS, period=1)
    for each in standing:
        marks = dict(labels)
        if each.has_own_name:
            marks[each.kind] = each.name
        if service := service_of(each.stack):
            marks["service"] = service
        profile.add(each.stack or (Frame(f"[{each.kind} without a frame]"),), (1,), marks)
    return profile


def as_groups(standing: Iterable[Standing]) -> str:
    """Write each different stack once, the most frequent first, with how many stand there [Go: debug=1]."""
    groups: dict[tuple[str, Stack], list[Standing]] = {}
    for each in standing:
        groups.setdefault((each.kind, each.stack), []).append(each)
    lines = [_heading(standing for group in groups.values() for standing in group), ""]
    for (kind, stack), group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        names = sorted({each.name for each in group if each.has_own_name})
        lines.append(f"{len(group)} {kind}{'s' * (len(group) > 1)} at{_listed(names)}")
        lines += [*_frames(stack), ""]
    return "\n".join(lines)


def as_text(standing: Iterable[Standing]) -> str:
    """Write every thread and task by itself [Go: debug=2]."""
    listed = list(standing)
    lines = [_heading(listed), ""]
    for each in listed:
        lines.append(f"{each.kind} {each.name}{f' ({each.note})' if each.note else ''}")
        lines += [*_frames(each.stack), ""]
    return "\n".join(lines)


def _heading(standing: Iterable[Standing]) -> str:
    kinds = [each.kind for each in standing]
    return f"{kinds.count('thread')} threads, {kinds.count('task')} tasks"


def _listed(names: list[str], most: int = 5) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f" ({', '.join(names[:most])}{more})"


def _frames(stack: Stack) -> Iterator[str]:
    """Give the lines of a stack, the innermost frame first, as Go and debuggers have it."""
    for frame in reversed(stack):
        yield f"    {frame}"


def from_py_spy(dumped: bytes) -> list[Standing]:
    """Read what `py-spy dump --json` writes.

    Raises:
        ValueError: if it is something else.
    """
    try:
        return [_thread(thread) for thread in json.loads(dumped)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no dump of py-spy: {error!r}") from error


def _thread(thread: dict[str, object]) -> Standing:
    frames = thread["frames"]
    if not isinstance(frames, list):
        raise TypeError("its frames are no list")
    stack = [Frame(str(frame["name"]), str(frame["filename"]), int(frame["line"] or 0)) for frame in frames]
    notes = ["runs" if thread["active"] else "waits", *(["holds the GIL"] if thread["owns_gil"] else [])]
    name = thread.get("thread_name") or f"{thread.get('os_thread_id') or thread['thread_id']}"
    return Standing("thread", str(name), tuple(reversed(stack)), ", ".join(notes))


__all__ = ["KINDS", "Standing", "as_groups", "as_profile", "as_text", "from_py_spy"]
