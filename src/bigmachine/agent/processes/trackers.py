"""Resource trackers: processes that remove what `multiprocessing` has made outside of any process.

A program that uses shared memory, or the semaphores of a pool, has such a process. It reads a pipe that all who use
these things write to; when they are all dead it removes what is left, and ends. It would be the only one to know what
there is. Killed with the others it cannot, and the host's memory would stay taken until somebody looks into /dev/shm.
So when a machine or an agent ends, trackers are killed last, if they have not ended in `TIDYING` by themselves.

Only what every Python has loaded is imported here, because the undertaker needs it, too.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

#: It takes a tracker some 20 ms; a process that it waits for may have escaped every look, and it then waits for ever.
TIDYING: Final = 0.25
#: In the command that starts one; that of joblib's own begins otherwise.
_COMMAND: Final = b"resource_tracker import main"


def is_tracker(pid: int) -> bool:
    """Tell whether a process is a resource tracker."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # of a zombie it is empty
            return _COMMAND in file.read()
    except OSError:
        return False


def trackers(pids: Iterable[int]) -> set[int]:
    """Give those of these processes that are resource trackers."""
    return {pid for pid in pids if is_tracker(pid)}


def has_tracker(pid: int) -> bool:
    """Tell whether a child of this process is a resource tracker. One that is dead has no children any more."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):  # it is gone, or this kernel does not tell
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    return bool(trackers(found))


__all__ = ["TIDYING", "has_tracker", "is_tracker", "trackers"]
