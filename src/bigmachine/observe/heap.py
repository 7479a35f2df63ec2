"""A census of this process's heap: how many objects there are of each type, and how much memory they take.

The collector knows the containers only. What cannot refer to anything else (bytes, strings, numbers, arrays of NumPy)
is found by looking into them, and so is what the frames that run now have in their local variables. A small object
that several containers refer to would be counted several times, so each time it counts for the part that one of its
references is of all; large ones are remembered, and count once. So the figures are estimates, good to a few percent
for what fills a memory, and nothing is allocated in proportion to the heap but the collector's own list.

What was there when a machine was forked (the imported modules, see `gc.freeze`) is not counted: it is not the
program's doing, and the same in all machines.

It is made to be taken when memory is short, in a thread of a program that goes on: it looks at the clock, and a
census that had no time for everything says so.
"""

from __future__ import annotations

import gc
import itertools
import sys
import time
from typing import TYPE_CHECKING, Final

from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

#: From this size on objects are remembered, and so counted exactly: a terabyte holds sixteen million of them.
_LARGE: Final = 1 << 16
#: A look at the clock costs 50 ns, one object about 500: look after so many.
_OFTEN: Final = 512
#: The references that counting itself has to an object: the loop's, the argument's.
_OURS: Final = 3
#: Containers that the collector leaves alone while nothing in them can refer to anything.
_MAY_BE_UNTRACKED: Final = (dict, tuple)
#: A function's code, in `co_flags` (inspect.CO_OPTIMIZED, without the import).
_CO_OPTIMIZED: Final = 1
#: Whose objects keep their data elsewhere, and say in `nbytes` how much it is.
_WITH_NBYTES: Final = ("torch", "pyarrow", "cupy", "jax", "jaxlib", "tensorflow", "pandas", "polars")


@frozen
class TypeCount:
    """The objects of one type: how many, and their bytes."""

    name: str
    count: int
    size: int


@frozen
class Census:
    """The types by size, the largest first. `seconds` is what it took; `is_complete`: there was time for everything."""

    types: tuple[TypeCount, ...]
    seconds: float
    is_complete: bool

    @property
    def size(self) -> int:
        """The bytes of all objects together."""
        return sum(each.size for each in self.types)

    @property
    def count(self) -> int:
        """How many objects there are."""
        return sum(each.count for each in self.types)

    def to_text(self, most: int = 200) -> str:
        """Write it as a table, the `most` types that take the most memory."""
        part = "" if self.is_complete else "; there was no time for all of them"
        lines = [
            f"# {self.count} objects, {self.size / 2**20:.1f} MiB, counted in {self.seconds:.2f} s{part}",
            f"{'bytes':>15} {'objects':>12}  type",
            *(f"{each.size:>15} {each.count:>12}  {each.name}" for each in self.types[:most]),
        ]
        return "\n".join(lines) + "\n"


def take_census(limit: float = 1.0) -> Census:
    """Count this process's objects, for at most about `limit` seconds."""
    return _Count(time.monotonic() + limit).run()


class _Count:
    def __init__(self, end: float) -> None:
        self._began = time.monotonic()
        self._end = end
        self._sums: dict[type, list[float]] = {}
        self._large: set[int] = set()
        self._inner: set[int] = set()
        self._own = {id(self._sums), id(self._large), id(self._inner), id(self.__dict__)}

    def run(self) -> Census:
        is_complete = True
        # Variables first: what fills the memory right now is often in one of what runs right now.
        for number, (thing, weight) in enumerate(itertools.chain(_variables(), _tracked())):
            if id(thing) not in self._own:
                self._add(thing, weight)
                self._look_into(thing)
            if number % _OFTEN == 0 and time.monotonic() > self._end:
                is_complete = False
                break
        rows = [TypeCount(_name(kind), round(count), round(size)) for kind, (count, size) in self._sums.items()]
        rows.sort(key=lambda row: (-row.size, row.name))
        return Census(tuple(rows), time.monotonic() - self._began, is_complete)

    def _look_into(self, container: object) -> None:
        for leaf in gc.get_referents(container):
            if not gc.is_tracked(leaf):
                share = _share(leaf, _OURS)  # by itself: an argument that waits on the stack is a reference, too
                self._add(leaf, share)
                if type(leaf) in _MAY_BE_UNTRACKED and not self._has_seen(leaf):
                    self._look_into(leaf)

    def _has_seen(self, leaf: object) -> bool:
        """Tell whether an untracked container that several refer to was looked into before."""
        if id(leaf) in self._inner:
            return True
        if sys.getrefcount(leaf) > _OURS + 2 and len(self._inner) < _LARGE:
            self._inner.add(id(leaf))
        return False

    def _add(self, thing: object, weight: float) -> None:
        size = _size(thing)
        if size >= _LARGE:
            if id(thing) in self._large:
                return
            self._large.add(id(thing))
            weight = 1.0
        sums = self._sums.setdefault(type(thing), [0.0, 0.0])
        sums[0] += weight
        sums[1] += weight * size


def _share(leaf: object, ours: int) -> float:
    return 1.0 / max(1, sys.getrefcount(leaf) - ours - 1)  # one more: this function's argument


def _variables() -> Iterator[tuple[object, float]]:
    """Give what only the variables of running functions refer to; modules and classes keep theirs in a dict."""
    own = sys._getframe()
    for top in list(sys._current_frames().values()):
        frame: FrameType | None = None if _is_traced(top) else top
        while frame is not None:
            if frame.f_code.co_flags & _CO_OPTIMIZED and frame.f_globals is not own.f_globals:
                variables = frame.f_locals
                values = [value for value in variables.values() if not gc.is_tracked(value)]
                if type(variables) is dict:
                    variables.clear()  # before 3.13 it is a copy, which the frame would keep, and all that is in it
                for value in values:
                    share = _share(value, _OURS)
                    yield value, share
            frame = frame.f_back


def _is_traced(top: FrameType) -> bool:
    """Tell whether a debugger may be at work on a thread: before 3.13 it writes the copies of variables back."""
    frame: FrameType | None = top
    while frame is not None:
        if frame.f_trace is not None or frame.f_globals.get("__name__") == "bdb":
            return True
        frame = frame.f_back
    return False


def _tracked() -> Iterator[tuple[object, float]]:
    """Give what the collector knows: the oldest, and usually the most, at the end."""
    for generation in range(3):
        for thing in gc.get_objects(generation):
            yield thing, 1.0


def _size(thing: object) -> int:
    try:
        size = sys.getsizeof(thing)
        if type(thing).__module__.partition(".")[0] in _WITH_NBYTES:
            size = max(size, int(getattr(thing, "nbytes", 0)))
    except Exception:  # noqa: BLE001 (any class may have a __sizeof__ of its own)
        return 0
    return size


def _name(kind: type) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


__all__ = ["Census", "TypeCount", "take_census"]
