"""Final memory for received buffers: `bytearray`, or an immutable `bytes` that is filled before anyone sees it.

Neither is cleared first. `bytearray(size)` writes zeros over all of it: 35 ms for 64 MiB, in which the event loop
serves nobody; unfilled memory is touched piece by piece, as it arrives (two cores, n=3, 34 to 38 ms).
"""

from __future__ import annotations

import sys
from collections.abc import Callable

_SMALL = 4096
#: Buffers from this size on are recycled, while all that are kept have no more than _KEPT bytes.
_RECYCLED = 1024 * 1024
_KEPT = 256 * 1024 * 1024
_IDLE = 1.0


def allocate(size: int, as_bytes: bool) -> tuple[bytes | bytearray, memoryview]:
    """Make the memory of one received buffer and a writable view of it.

    Objects are made without contents and filled from the network, as C extensions do it with
    PyBytes_FromStringAndSize(NULL, n) ("a string created with NULL may be filled until it is shared", Python/C API).
    Elsewhere than on CPython a cleared `bytearray` is returned, and whoever unpickles copies it where `bytes` were
    meant.
    """
    if size > _SMALL and sys.implementation.name == "cpython":
        return _unfilled_bytes(size) if as_bytes else _unfilled_bytearray(size)
    memory = bytearray(size)
    return memory, memoryview(memory)


class FreeList:
    """Large `bytearray`s, each given again once nobody holds it; for one thread.

    The first touch of fresh memory costs a page fault each 4 KiB: a seventh of what it takes to receive 64 MiB
    (`research`: 2.0 to 2.35 GB/s). That nobody holds a buffer is seen in its reference count: whoever uses its memory
    (an array, a view) has a reference to it. All together have at most `most` bytes.
    """

    def __init__(self, most: int) -> None:
        self.kept: list[bytearray] = []
        # Without the interpreter lock a count may not be what it seems.
        is_exact = sys.implementation.name == "cpython" and _has_gil()
        self.most = most if is_exact else 0
        # Counted rather than known: Python 3.14 lends what others count, and one less would be somebody's array.
        self._free = _references([bytearray()], 0) if is_exact else 0

    def take(self, size: int) -> bytearray:
        """Return a buffer of this size that nobody else holds; its contents are not cleared."""
        kept = self.kept
        for index, length in enumerate(map(len, kept)):
            if length == size and _references(kept, index) == self._free:
                return kept[index]
        fresh, _ = allocate(size, False)
        assert isinstance(fresh, bytearray)
        if size <= self.most:
            kept.append(fresh)
            while sum(map(len, kept)) > self.most:
                del kept[0]
        return fresh


class Recycler:
    """The memory of received buffers: large ones from a free list, that is emptied when it has been idle."""

    def __init__(self, call_later: Callable[..., object]) -> None:
        self._call_later = call_later
        self._list = FreeList(_KEPT)
        self._was_used = False
        self._is_watched = False

    def allocate(self, size: int, as_bytes: bool) -> tuple[bytes | bytearray, memoryview]:
        """Make the memory of one received buffer, or take some that is free again."""
        if as_bytes or not _RECYCLED <= size <= self._list.most:
            return allocate(size, as_bytes)
        self._was_used = True
        memory = self._list.take(size)
        if not self._is_watched:
            self._is_watched = True
            self._call_later(_IDLE, self._look)
        return memory, memoryview(memory)

    def _look(self) -> None:
        if self._was_used:
            self._was_used = False
            self._call_later(_IDLE, self._look)
        else:
            self._list.kept.clear()
            self._is_watched = False


def _references(kept: list[bytearray], index: int) -> int:
    return sys.getrefcount(kept[index])


def _has_gil() -> bool:
    ask: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)  # since Python 3.13
    return ask is None or ask()


def _unfilled_bytes(size: int) -> tuple[bytes, memoryview]:
    import ctypes

    make = ctypes.pythonapi.PyBytes_FromStringAndSize
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
    memory: bytes = make(None, size)
    # The contents begin before the terminating zero byte that __basicsize__ counts.
    contents = (ctypes.c_char * size).from_address(id(memory) + bytes.__basicsize__ - 1)
    # Whoever still writes through the view (a transport whose connection is being given up) must not outlive it.
    contents.memory = memory  # type: ignore[attr-defined]  # an attribute of this object alone
    return memory, memoryview(contents).cast("B")


def _unfilled_bytearray(size: int) -> tuple[bytearray, memoryview]:
    import ctypes

    make = ctypes.pythonapi.PyByteArray_FromStringAndSize
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
    memory: bytearray = make(None, size)
    return memory, memoryview(memory)
