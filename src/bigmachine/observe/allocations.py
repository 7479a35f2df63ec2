"""What memory holds, as a profile: a census by type, or by who allocated it, where that was recorded.

Who allocated is known only while somebody notes it, and that is dear in Python: so a census is what there always is;
`memray` notes for a window of some seconds on request; and `tracemalloc` notes everything from the start of a machine
that is given `BIGMACHINE_TRACEMALLOC=1` in its environment (measured: it makes code that allocates much 8 to 20 times
as slow).
"""

from __future__ import annotations

import ast
import os
import tempfile
import threading
import time
import tracemalloc
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bigmachine.observe.profile import Frame, Profile

if TYPE_CHECKING:
    from bigmachine.observe.heap import Census

KINDS: Final = (("inuse_objects", "count"), ("inuse_space", "bytes"))
#: In a machine's environment: how many frames of each allocation tracemalloc keeps. One is dear already.
TRACE: Final = "BIGMACHINE_TRACEMALLOC"
#: memray allows one tracker a process; the next one waits for its turn.
_one_tracker = threading.Lock()
_MOST_FRAMES: Final = 100


def of_census(census: Census) -> Profile:
    """Make a profile of a census, one frame a type."""
    profile = Profile(KINDS, began=time.time_ns(), period=1)
    for row in census.types:
        profile.add((Frame(row.name),), (row.count, row.size))
    profile.comments.append("by type, not by who allocated it (a census of the objects that there are)")
    if not census.is_complete:
        profile.comments.append(f"there was no time to count all objects: {census.seconds:.1f} s are over")
    return profile


def trace_if_asked() -> None:
    """Let tracemalloc note all allocations from now on, if this process's environment asks for it.

    Raises:
        ValueError: if it asks for something else than a number of frames.
    """
    asked = os.environ.get(TRACE, "")
    if asked in ("", "0"):
        return
    if not asked.isdecimal() or not 1 <= int(asked) <= _MOST_FRAMES:
        raise ValueError(f"{TRACE}={asked!r}: it has to be a number of frames from 1 to {_MOST_FRAMES}, or 0")
    tracemalloc.start(int(asked))


def of_tracemalloc() -> Profile:
    """Make a profile of what tracemalloc has noted and what is still there.

    Raises:
        ValueError: if it does not run.
    """
    if not tracemalloc.is_tracing():
        raise ValueError(f"tracemalloc does not run here: start machines with environ={{{TRACE!r}: '1'}}")
    profile = Profile(KINDS, began=time.time_ns(), period=1)
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)])
    for statistic in snapshot.statistics("traceback"):
        stack = tuple(
            Frame(function_at(frame.filename, frame.lineno), frame.filename, frame.lineno)
            for frame in statistic.traceback
        )
        profile.add(stack, (statistic.count, statistic.size))
    profile.comments.append("allocated since the machine's start, and still there (tracemalloc)")
    return profile


def function_at(file: str, line: int) -> str:
    """Name the innermost function or class whose source has this line; `<module>` outside of all."""
    best, smallest = "<module>", 1 << 60
    for first, last, name in _functions(file):
        if first <= line <= last and last - first <= smallest:
            best, smallest = name, last - first
    return best


@lru_cache(maxsize=512)
def _functions(file: str) -> tuple[tuple[int, int, str], ...]:
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):  # "<string>", or gone, or no source
        return ()
    found: list[tuple[int, int, str]] = []
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, prefix = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = prefix + node.name
            found.append((node.lineno, node.end_lineno or node.lineno, name))
            prefix = f"{name}." if isinstance(node, ast.ClassDef) else f"{name}.<locals>."
        waiting += [(child, prefix) for child in ast.iter_child_nodes(node)]
    return tuple(found)


def of_memray(seconds: float) -> Profile:
    """Have memray note all allocations for `seconds`; tell those of them that were still there at the end.

    Raises:
        ValueError: if it is not installed here, or somebody else uses it.
    """
    try:
        import memray
    except ImportError as error:
        raise ValueError("memray is not installed on this machine: pip install 'bigmachine[memray]'") from error
    profile = Profile(KINDS, began=time.time_ns(), period=1, duration=round(seconds * 1e9))
    with _one_tracker, tempfile.TemporaryDirectory(prefix="bigmachine-") as directory:
        file = Path(directory, "allocations")
        try:
            with memray.Tracker(
                file, trace_python_allocators=True, file_format=memray.FileFormat.AGGREGATED_ALLOCATIONS
            ):
                time.sleep(seconds)
        except RuntimeError as error:
            raise ValueError(f"memray cannot track this machine: {error}") from error
        with memray.FileReader(file) as reader:
            for record in reader.get_leaked_allocation_records(merge_threads=True):
                stack = tuple(Frame(*place) for place in reversed(record.stack_trace()))
                profile.add(stack or (Frame("[not in Python]"),), (record.n_allocations, record.size))
    profile.comments.append(f"allocated within {seconds:g} s, and still there at their end (memray)")
    return profile


__all__ = ["KINDS", "TRACE", "function_at", "of_census", "of_memray", "of_tracemalloc", "trace_if_asked"]
