"""Give back memory of a large object that nothing has been written to yet.

uvloop's event loop has a buffer of 250 KB inside for streams of its own, which nothing here uses. CPython clears an
object's memory when it makes one, by writing zeros, so each process would pay for all of it.
"""

from __future__ import annotations

import os
import sys

#: madvise(2): forget these pages. Anonymous private memory is read as zeros afterwards.
_MADV_DONTNEED = 4


def give_back_zeros(thing: object) -> int:
    """Have the kernel forget whole pages inside an object's own memory that hold only zeros; returns their bytes.

    Whoever reads them finds zeros as before, and whoever writes gets memory then. Nobody may write meanwhile: the
    object has just been made, and is known to the calling thread alone.
    """
    if sys.platform != "linux" or sys.implementation.name != "cpython":
        return 0
    import ctypes

    page = os.sysconf("SC_PAGE_SIZE")
    zeros = bytes(page)
    begin = -(-id(thing) // page) * page
    end = (id(thing) + type(thing).__basicsize__) // page * page
    forget = ctypes.pythonapi.madvise  # the C library as it is there: opening it anew takes as long as all else
    forget.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    given = 0
    run = begin
    for place in range(begin, end + page, page):
        if place < end and ctypes.string_at(place, page) == zeros:
            continue
        if place > run and forget(run, place - run, _MADV_DONTNEED) == 0:
            given += place - run
        run = place + page
    return given
