"""Sample this process from inside, where nobody may do it from outside (no ptrace, macOS): it is biased.

A thread of the process looks at the others a hundred times a second. It sees them only where they give the interpreter
lock away, so what happens between two such places is charged to their ends; on a busy event loop that is wrong by tens
of percent (measured: 40 points), while loops in pure Python and in NumPy come out right. Each sample counts for the
processor time that the thread has used since the last one, where the system tells it.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from bigmachine.observe.profile import Profile, service_of
from bigmachine.observe.walker import stack_of

NOTE = "sampled from inside the process, and so biased: small parts may be wrong, and an event loop's are"
#: A thread that used less since the last sample was woken and went back to sleep; that is noise.
_NOTHING_NS = 20_000


def sample(seconds: float, hertz: float = 100.0) -> Profile:
    """Sample all other threads for `seconds`; in the calling thread."""
    period = round(1e9 / hertz)
    profile = Profile((("samples", "count"), ("cpu", "nanoseconds")), period=period, began=time.time_ns())
    profile.comments.append(NOTE)
    own = threading.get_ident()
    used: dict[int, int] = {}
    begin = time.monotonic()
    due, end = begin, begin + seconds
    while (now := time.monotonic()) < end:
        threads = {thread.ident: thread for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            thread = threads.get(ident)
            if ident == own or thread is None:
                continue
            spent = _spent(thread.native_id, used, period)
            if spent >= _NOTHING_NS:
                stack = stack_of(frame)
                labels = {"thread": thread.name}
                if service := service_of(stack):
                    labels["service"] = service
                profile.add(stack, (1, spent), labels)
            del frame
        # Never two samples at once for one that was missed: it would see the same twice.
        due = max(due + 1 / hertz, now)
        time.sleep(max(0.0, min(due, end) - time.monotonic()))
    profile.duration = round((time.monotonic() - begin) * 1e9)
    return profile


def _spent(native: int | None, used: dict[int, int], otherwise: int) -> int:
    """Give the processor time of a thread since it was last asked for, in ns; `otherwise` where nobody knows it."""
    if native is None:
        return otherwise
    try:
        total = int(Path(f"/proc/self/task/{native}/schedstat").read_bytes().split()[0])
    except (OSError, ValueError, IndexError):
        return otherwise
    before = used.get(native)
    used[native] = total
    return 0 if before is None else total - before


__all__ = ["NOTE", "sample"]
