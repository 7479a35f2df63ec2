"""Final memory for received buffers: `bytearray`, or an immutable `bytes` that is filled before anyone sees it.

Neither is cleared first. `bytearray(size)` writes zeros over all of it: 35 ms for 64 MiB, in which the event loop
serves nobody; unfilled memory is touched piece by piece, as it arrives (two cores, n=3, 34 to 38 ms).
"""

from __future__ import annotations

import sys

_SMALL = 4096


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


def _unfilled_bytes(size: int) -> tuple[bytes, memoryview]:
    import ctypes

    make = ctypes.pythonapi.PyBytes_FromStringAndSize
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
    memory: bytes = make(None, size)
    # The contents begin before the terminating zero byte that __basicsize__ counts.
    contents = (ctypes.c_char * size).from_address(id(memory) + bytes.__basicsize__ - 1)
    return memory, memoryview(contents).cast("B")


def _unfilled_bytearray(size: int) -> tuple[bytearray, memoryview]:
    import ctypes

    make = ctypes.pythonapi.PyByteArray_FromStringAndSize
    make.restype = ctypes.py_object
    make.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
    memory: bytearray = make(None, size)
    return memory, memoryview(memory)
