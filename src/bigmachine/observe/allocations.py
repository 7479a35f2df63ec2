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
    from collections.abc import Iterable, Mapping

    from bigmachine.observe.heap import Census

KINDS: Final = (("inuse_objects", "count"), ("inuse_space", "bytes"))
#: In a machine's environment: how many frames of each allocation tracemalloc keeps. One is dear already.
TRACE: Final = "BIGMACHINE_TRACEMALLOC"
#: memray allows one tracker a process; the next one waits for its turn.
_one_tracker = threading.Lock()
_MOST_FRAMES: Final = 100
#: Seconds for the names of functions; what is not named then has its file and line.
_NAMING: Final = 1.0
_TOP: Final = "<module>"


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


def of_tracemalloc(most_files: int = 1000) -> Profile:
    """Make a profile of what tracemalloc has noted and what is still there.

    Functions are named in `most_files` files, those in which most was allocated; each takes memory to be read.

    Raises:
        ValueError: if it does not run.
    """
    if not tracemalloc.is_tracing():
        raise ValueError(f"tracemalloc does not run here: start machines with environ={{{TRACE!r}: '1'}}")
    profile = Profile(KINDS, began=time.time_ns(), period=1)
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)])
    statistics = snapshot.statistics("traceback")  # the largest first
    named = _named((frame.filename for statistic in statistics for frame in statistic.traceback), most_files)
    for statistic in statistics:
        stack = tuple(_frame(frame.filename, frame.lineno, named) for frame in statistic.traceback)
        profile.add(stack, (statistic.count, statistic.size))
    profile.comments.append("allocated since the machine's start, and still there (tracemalloc)")
    return profile


def _named(files: Iterable[str], most: int) -> dict[str, tuple[str, ...]]:
    """Read the names of functions in `files`, in their order, for as long as there is time.

    tracemalloc knows files and lines only. While it runs, a parser, which allocates much, is slow, too.
    """
    end = time.monotonic() + _NAMING
    named: dict[str, tuple[str, ...]] = {}
    for file in files:
        if file not in named:
            if time.monotonic() > end or len(named) >= most:
                break
            named[file] = functions_of(file)
    return named


def _frame(file: str, line: int, named: Mapping[str, tuple[str, ...]]) -> Frame:
    names = named.get(file)
    if names is None:
        return Frame(f"[{os.path.basename(file)}]", file, line)
    return Frame(names[line] if line < len(names) else _TOP, file, line)


@lru_cache(maxsize=512)
def functions_of(file: str) -> tuple[str, ...]:
    """Give, for each line of a source file (the first is 1), the innermost function or class that it is in."""
    try:
        source = Path(file).read_bytes()
        tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError, RecursionError):  # "<string>", or gone, or no source
        return ()
    names = [_TOP] * (source.count(b"\n") + 2)
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, prefix = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = prefix + node.name
            last = node.end_lineno or node.lineno
            names[node.lineno : last + 1] = [name] * (last + 1 - node.lineno)  # what is inside overwrites it later
            prefix = f"{name}." if isinstance(node, ast.ClassDef) else f"{name}.<locals>."
        waiting += [(child, prefix) for child in ast.iter_child_nodes(node) if isinstance(child, _CONTAINERS)]
    return tuple(names)


#: What a function can be defined in; expressions, which are most of a tree, cannot have any (but lambdas).
_CONTAINERS: Final = (ast.stmt, ast.excepthandler, ast.match_case)


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


__all__ = ["KINDS", "TRACE", "functions_of", "of_census", "of_memray", "of_tracemalloc", "trace_if_asked"]
