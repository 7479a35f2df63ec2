"""What a machine tells of its heap when memory runs short: as text and as a profile, within what is left."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from bigmachine.observe import pprof
from bigmachine.observe.profile import Profile
from bigmachine.program.dump import Heap, take_heap

MIB = 1 << 20


class Kept:
    """Memory that somebody holds: more than anything else in this process, though it is not touched."""

    def __init__(self) -> None:
        self.pieces: list[bytearray] = []

    def keep(self) -> None:
        self.pieces += [bytearray(MIB) for _ in range(256)]


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start(1)
    yield
    tracemalloc.stop()


def taken(headroom: int) -> Heap:
    told: SimpleQueue[Heap] = SimpleQueue()
    take_heap(headroom, told.put)
    return told.get(timeout=60)


def largest(profile: Profile) -> tuple[str, int]:
    (stack, _), values = max(profile.samples.items(), key=lambda item: item[1][-1])
    return stack[-1].function, values[-1]


def test_the_heap_is_told_by_type_as_text_and_as_a_profile(kept: Kept) -> None:
    kept.keep()
    heap = taken(1 << 40)
    assert heap.text.splitlines()[2].split()[2] == "bytearray"
    name, size = largest(pprof.decode(heap.profile))
    assert (name, size >= 256 * MIB) == ("bytearray", True)


def test_who_allocated_it_is_told_where_that_is_noted(kept: Kept, traced: None) -> None:
    kept.keep()
    heap = taken(1 << 40)
    assert "bytearray" in heap.text
    name, size = largest(pprof.decode(heap.profile))
    assert (name, size >= 256 * MIB) == ("Kept.keep", True)


def test_where_little_is_left_what_would_take_more_is_not_done(kept: Kept, traced: None) -> None:
    kept.keep()
    noted: list[object] = []
    # A snapshot takes several times as much as is noted; in a process with much in it little has been noted yet.
    while 2 * tracemalloc.get_tracemalloc_memory() < (objects := 8 * sys.getallocatedblocks()):
        noted += [object() for _ in range(10_000)]
    heap = taken(round(2.5 * objects))  # room for a census, not for a snapshot
    assert largest(pprof.decode(heap.profile))[0] == "bytearray"
    heap = taken(objects)
    assert heap.text.startswith("# no census was taken: it might have needed")
    assert heap.profile == b""
