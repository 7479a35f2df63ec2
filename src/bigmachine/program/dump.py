"""What a machine tells of its memory when that runs short: what its heap holds, and its variables as plain data."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
from typing import TYPE_CHECKING, Final

from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable

    from bigmachine.observe.heap import Census
    from bigmachine.observe.profile import Profile

#: tracemalloc's own bytes, beyond which its snapshot would take too much of the time and memory that are left.
_MOST_TRACED: Final = 16 * 2**20
#: A snapshot takes so many times as much (measured: 3.6).
_SNAPSHOT: Final = 4
#: Names of functions stand in the source: so many files are read, and take so many bytes.
_NAMED: Final = 3
_FOR_NAMES: Final = 4 * 2**20


@frozen
class Heap:
    """What a heap holds: by type as `text`, and as a pprof `profile` (empty if there was no memory left for it)."""

    text: str
    profile: bytes = b""


def take_heap(headroom: int, done: Callable[[Heap], object]) -> None:
    """Look at the heap, in a thread of its own so that calls go on, and give what it holds to `done`.

    `headroom`: the bytes that may still be used; a census that might take more than half of it is not taken. The
    profile is by who allocated what, where the machine notes that (see `observe.allocations`); else by type.
    """
    threading.Thread(target=lambda: done(_heap(headroom)), name="bigmachine-dump", daemon=True).start()


def _heap(headroom: int) -> Heap:
    # The collector makes a list of its objects, eight bytes for each; of these there are fewer than of blocks.
    if (needed := 8 * sys.getallocatedblocks()) > headroom // 2:
        return Heap(f"# no census was taken: it might have needed {needed} bytes, of {headroom} that were left\n")
    try:
        from bigmachine.observe.heap import take_census

        census = take_census()
        text = census.to_text()
    except MemoryError:
        return Heap("# no census was taken: there was no memory left for it\n")
    with contextlib.suppress(MemoryError):
        return Heap(text, _encoded(census, headroom))
    return Heap(text)


def _encoded(census: Census, headroom: int) -> bytes:
    from bigmachine.observe import allocations, pprof

    profile: Profile | None = None
    with contextlib.suppress(MemoryError, ValueError):
        profile = _allocated(headroom)
    return pprof.encode(profile or allocations.of_census(census))


def _allocated(headroom: int) -> Profile | None:
    traced = sys.modules.get("tracemalloc")
    if traced is None or not traced.is_tracing():
        return None
    traces = traced.get_tracemalloc_memory()
    if traces > _MOST_TRACED or _SNAPSHOT * traces + _FOR_NAMES > headroom // 2:
        return None
    from bigmachine.observe import allocations

    return allocations.of_tracemalloc(_NAMED)


def plain(value: object) -> object:
    """Make what JSON can hold of variables, whose values may be records of ours."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return repr(value)


__all__ = ["Heap", "plain", "take_heap"]
