"""Final memory for received buffers: `bytearray`, or an immutable `bytes` that is filled before anyone sees it.

Neither is cleared first. `bytearray(size)` writes zeros over all of it: 35 ms for 64 MiB, in which the event loop
serves nobody; unfilled memory is touched piece by piece, as it arrives (two cores, n=3, 34 to 38 ms).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

_SMALL = 4096
#: Buffers from this size on are recycled, while all that are kept have no more than _KEPT bytes and are no more than
#: _MOST: each one that is asked for has them looked through.
_RECYCLED = 256 * 1024
_KEPT = 256 * 1024 * 1024
_MOST = 64
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
    """Large `bytearray`s or `bytes`, each given again once nobody holds it; for one thread.

    The first touch of fresh memory costs a page fault each 4 KiB: a seventh of what it takes to receive 64 MiB
    (`research`: 2.0 to 2.35 GB/s). That nobody holds a buffer is seen in its reference count: whoever uses its memory
    (an array, a view) has a reference to it. So nobody is there who could see `bytes` change; the one thing that they
    remember of their contents, their hash, is made to be forgotten. All together have at most `most` bytes.
    """

    def __init__(self, most: int, *, as_bytes: bool = False) -> None:
        self.kept: list[bytes | bytearray] = []
        self._as_bytes = as_bytes
        # Without the interpreter lock a count may not be what it seems.
        is_exact = sys.implementation.name == "cpython" and _has_gil() and (not as_bytes or _knows_hash())
        self.most = most if is_exact else 0
        # Counted rather than known: Python 3.14 lends what others count, and one less would be somebody's array.
        self._free = _references([bytearray()], 0) if is_exact else 0

    def take(self, size: int) -> tuple[bytes | bytearray, memoryview]:
        """Return a buffer of this size that nobody else holds, and a view to fill it; its contents are not cleared."""
        kept = self.kept
        for index, length in enumerate(map(len, kept)):
            if length == size and _references(kept, index) == self._free:
                memory = kept[index]
                return memory, _refilled(memory) if type(memory) is bytes else memoryview(memory)
        fresh, view = allocate(size, self._as_bytes)
        if size <= self.most:
            kept.append(fresh)
            while len(kept) > _MOST or sum(map(len, kept)) > self.most:
                del kept[0]
        return fresh, view


class Recycler:
    """The memory of received buffers: large ones from a free list, that is emptied when it has been idle."""

    def __init__(self, call_later: Callable[..., object]) -> None:
        self._call_later = call_later
        self._lists = (FreeList(_KEPT), FreeList(_KEPT, as_bytes=True))
        self._was_used = False
        self._is_watched = False

    def allocate(self, size: int, as_bytes: bool) -> tuple[bytes | bytearray, memoryview]:
        """Make the memory of one received buffer, or take some that is free again."""
        free = self._lists[as_bytes]
        if not _RECYCLED <= size <= free.most:
            return allocate(size, as_bytes)
        self._was_used = True
        if not self._is_watched:
            self._is_watched = True
            self._call_later(_IDLE, self._look)
        return free.take(size)

    def _look(self) -> None:
        if self._was_used:
            self._was_used = False
            self._call_later(_IDLE, self._look)
        else:
            for free in self._lists:
                free.kept.clear()
            self._is_watched = False


def _references(kept: Sequence[bytes | bytearray], index: int) -> int:
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
    return memory, _writable(memory)


def _writable(memory: bytes) -> memoryview:
    import ctypes

    # The contents begin before the terminating zero byte that __basicsize__ counts.
    contents = (ctypes.c_char * len(memory)).from_address(id(memory) + bytes.__basicsize__ - 1)
    # Whoever still writes through the view (a transport whose connection is being given up) must not outlive it.
    contents.memory = memory  # type: ignore[attr-defined]  # an attribute of this object alone
    return memoryview(contents).cast("B")


def _hash_of(memory: bytes) -> Any:
    import ctypes

    return ctypes.c_ssize_t.from_address(id(memory) + bytes.__basicsize__ - 1 - ctypes.sizeof(ctypes.c_ssize_t))


def _knows_hash() -> bool:
    """Tell whether the hash that `bytes` remember lies right before their contents, and is -1 until it is asked for."""
    asked = bytes(b + 1 for b in range(40))
    fresh = asked[::-1]
    known = hash(asked)
    return bool(_hash_of(asked).value == known and _hash_of(fresh).value == -1)


def _refilled(memory: bytes) -> memoryview:
    _hash_of(memory).value = -1
    return _writable(memory)


def _unfilled_bytearray(size: int) -> tuple[bytearray, memoryview]:
    import ctypes

    make = ctypes.pythonapi.PyByteArray_FromStringAndSize
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
    memory: bytearray = make(None, size)
    return memory, memoryview(memory)
