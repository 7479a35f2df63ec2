"""Final memory: writable until it is filled, `bytes` where the sender had `bytes`."""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bigmachine.rpc import buffers
from bigmachine.rpc.buffers import Recycler, allocate


@pytest.mark.parametrize("size", [4097, 100_000])
def test_large_bytes_are_filled_in_place(size: int) -> None:
    memory, view = allocate(size, True)
    assert type(memory) is bytes
    assert len(view) == len(memory) == size
    assert (view.itemsize, view.ndim, view.readonly) == (1, 1, False)
    pattern = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    view[:] = pattern
    assert memory == pattern
    assert hash(memory) == hash(pattern)


def test_filled_bytes_end_with_the_terminator_that_c_code_relies_on() -> None:
    # float() reads on to the zero byte after the contents.
    memory, view = allocate(5000, True)
    view[:] = b"1" * 300 + b" " * 4700
    assert type(memory) is bytes
    assert float(memory) == float("1" * 300)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("as_bytes", [True, False])
def test_memory_is_not_touched_before_it_is_filled(as_bytes: bool) -> None:
    before = _resident_pages()
    kept = allocate(64 << 20, as_bytes)
    assert _resident_pages() - before < (1 << 20) // resource.getpagesize()
    del kept


def _resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.parametrize(("size", "as_bytes"), [(0, True), (1, True), (4096, True), (0, False), (100_000, False)])
def test_small_bytes_and_everything_else_is_a_bytearray(size: int, as_bytes: bool) -> None:
    memory, view = allocate(size, as_bytes)
    assert type(memory) is bytearray
    assert len(memory) == len(view) == size
    view[:] = b"x" * size
    assert memory == b"x" * size


def test_memory_outlives_its_view() -> None:
    memory, view = allocate(10_000, True)
    view[:] = b"a" * 10_000
    del view
    assert memory == b"a" * 10_000


def bytes_of(memory: bytes | bytearray) -> bytes:
    assert type(memory) is bytes
    return memory


class TestRecycler:
    """Memory that nobody holds any more is given again; what is held never is."""

    SIZE = 2 * 2**20

    def make(self) -> tuple[Recycler, list[Callable[[], None]]]:
        looks: list[Callable[[], None]] = []
        return Recycler(lambda _seconds, look: looks.append(look)), looks

    def test_free_memory_is_given_again(self) -> None:
        recycler, _ = self.make()
        first = id(recycler.allocate(self.SIZE, False)[0])
        assert id(recycler.allocate(self.SIZE, False)[0]) == first

    @pytest.mark.parametrize(
        "hold", [lambda memory: memory, memoryview, lambda memory: np.frombuffer(memory, np.uint8)]
    )
    def test_memory_that_anybody_holds_is_not(self, hold: Callable[[bytearray], object]) -> None:
        recycler, _ = self.make()
        memory, view = recycler.allocate(self.SIZE, False)
        assert isinstance(memory, bytearray)
        held, first = hold(memory), id(memory)
        del memory, view
        other, _ = recycler.allocate(self.SIZE, False)
        assert id(other) != first
        assert held is not None

    @pytest.mark.parametrize("lent", [0, 1, 2])
    def test_where_the_interpreter_counts_fewer_references_what_is_held_is_still_not(
        self, lent: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = sys.getrefcount
        monkeypatch.setattr(sys, "getrefcount", lambda value: count(value) - lent)
        recycler, _ = self.make()
        memory, view = recycler.allocate(self.SIZE, False)
        other, _ = recycler.allocate(self.SIZE, False)
        assert other is not memory
        first = id(memory)
        del memory, view
        assert id(recycler.allocate(self.SIZE, False)[0]) == first

    def test_memory_of_another_size_is_not(self) -> None:
        recycler, _ = self.make()
        recycler.allocate(self.SIZE, False)
        assert len(recycler.allocate(self.SIZE + 1, False)[0]) == self.SIZE + 1

    def test_bytes_that_nobody_holds_are_given_again_and_have_the_hash_of_their_new_contents(self) -> None:
        recycler, _ = self.make()
        memory, view = recycler.allocate(self.SIZE, True)
        view[:] = b"a" * self.SIZE
        first, before = id(memory), hash(memory)
        del memory, view
        again, view = recycler.allocate(self.SIZE, True)
        view[:] = b"b" * self.SIZE
        assert type(again) is bytes
        assert id(again) == first
        assert again == b"b" * self.SIZE
        assert hash(again) == hash(b"b" * self.SIZE) != before

    @pytest.mark.parametrize(
        "hold",
        [
            lambda memory: memory,
            memoryview,
            lambda memory: np.frombuffer(memory, np.uint8),
            lambda memory: {memory: 1},
            ctypes.c_char_p,
            pickle.PickleBuffer,
        ],
    )
    def test_bytes_that_anybody_holds_never_change(self, hold: Callable[[bytes], object]) -> None:
        recycler, _ = self.make()
        memory, view = recycler.allocate(self.SIZE, True)
        view[:] = b"a" * self.SIZE
        held = hold(bytes_of(memory))
        first = id(memory)
        del memory, view
        other, view = recycler.allocate(self.SIZE, True)
        view[:] = b"b" * self.SIZE
        assert id(other) != first
        assert held is not None

    def test_bytes_whose_view_is_still_written_to_are_not_given_again(self) -> None:
        recycler, _ = self.make()
        memory, view = recycler.allocate(self.SIZE, True)
        first = id(memory)
        del memory
        assert id(recycler.allocate(self.SIZE, True)[0]) != first
        assert view is not None

    def test_bytes_are_new_where_their_hash_lies_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(buffers, "_knows_hash", lambda: False)
        recycler, _ = self.make()
        memory, _ = recycler.allocate(self.SIZE, True)
        del memory
        assert not recycler._lists[True].kept

    @pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython has the layout")
    def test_what_was_freed_is_not_looked_at(self) -> None:
        """Python's debugging allocator overwrites it at once; others give it to somebody else, or to the system."""
        code = "from bigmachine.rpc import buffers; assert buffers._knows_hash()"
        environ = {**os.environ, "PYTHONMALLOC": "debug", "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=60)

    def test_what_is_not_used_is_let_go(self) -> None:
        recycler, looks = self.make()
        recycler.allocate(self.SIZE, False)
        recycler.allocate(self.SIZE, True)
        looks.pop()()  # it was used a moment ago
        assert [len(free.kept) for free in recycler._lists] == [1, 1]
        looks.pop()()
        assert [len(free.kept) for free in recycler._lists] == [0, 0]
        assert not looks

    def test_what_is_kept_is_bounded(self) -> None:
        recycler, _ = self.make()
        held = [recycler.allocate(100 * 2**20 + n, False)[0] for n in range(4)]
        assert sum(map(len, recycler._lists[False].kept)) <= 256 * 2**20
        assert len(held) == 4
        held = [recycler.allocate(2**18, False)[0] for _ in range(100)]
        assert len(recycler._lists[False].kept) <= 64


def test_a_view_of_unfilled_bytes_keeps_their_memory() -> None:
    memory, view = allocate(100_000, True)
    before = sys.getrefcount(memory)
    del view
    assert sys.getrefcount(memory) == before - 1
