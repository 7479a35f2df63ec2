"""The three things of prctl(2) by which no process outlives the one that answers for it. Linux; elsewhere no-ops.

Python has no binding, so this goes through ctypes (2 ms to import, paid once by the agent and once by the zygote).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ctypes

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36


def become_subreaper() -> bool:
    """Make orphans among this process's descendants its children; False where the system cannot."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> bool:
    """Have the kernel kill this process when `parent` dies, which must be its parent or about to become so.

    Ends this process at once if `parent` is dead already. False where the system cannot. The setting goes with the
    parent as it is when it dies, but reparenting itself counts as a death, so wait for it first. The kernel means the
    parent's *thread*: agents start their processes from the main thread.
    """
    if not sys.platform.startswith("linux"):
        return False
    deadline = time.monotonic() + 5
    while (other := os.getppid()) != parent:
        # The process in between exits right after the fork; anything else that takes us over is not the parent.
        if time.monotonic() > deadline or not _exists(parent):
            os._exit(1)
        _await_end(other)
    done = _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    return done


def name_process(name: str) -> None:
    """Set the name that ps and top show (the first 15 bytes of it)."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def _await_end(pid: int) -> None:
    """Wait until a process has ended, though not for long."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # it has, or the kernel is older than 5.3
        time.sleep(0.0001)
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(100)
    finally:
        os.close(descriptor)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@cache
def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int | bytes) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    zero = ctypes.c_ulong(0)
    result: int = _libc().prctl(option, argument, zero, zero, zero)
    return result == 0


__all__ = ["become_subreaper", "die_with", "name_process"]
