"""Whether what is typed at this process's terminal is free to be read by somebody else than the program."""

from __future__ import annotations

import os
import platform
import sys
import threading
from typing import Final

#: Who reads from a terminal in ways that are not to be seen otherwise.
_READERS: Final = frozenset(
    (
        "IPython",
        "_pyrepl",
        "bpython",
        "cmd",
        "code",
        "curses",
        "getpass",
        "pdb",
        "prompt_toolkit",
        "ptpython",
        "textual",
    )
)
#: What a thread may wait in without reading, by the processor's numbers of system calls: futex, nanosleep,
#: clock_nanosleep, epoll_wait, epoll_pwait, wait4.
_WAITING: Final = {"x86_64": {202, 35, 230, 232, 281, 61}, "aarch64": {98, 101, 115, 22, 260}}


def is_free() -> bool:
    """Tell whether a prompt can be opened there: it is ours, nobody reads from it, and we are in its foreground."""
    try:
        if sys.stdin is None or sys.stderr is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        if sys.stdin.fileno() != 0 or os.tcgetpgrp(0) != os.getpgrp():
            return False
    except (OSError, ValueError):  # closed, or replaced by something without a descriptor
        return False
    return not (sys.flags.interactive or hasattr(sys, "ps1") or _may_be_read())


def _may_be_read() -> bool:
    """Tell whether the main thread may read what is typed, or could not be looked at."""
    main = threading.main_thread()
    if not main.is_alive():
        return False
    frame = sys._current_frames().get(main.ident or 0)
    if frame is None:
        return True
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _READERS:
            return True
        frame = frame.f_back
    return not _waits(main.native_id or 0)


def _waits(thread: int) -> bool:
    """Tell whether a thread runs, or waits for something else than a terminal; False where that cannot be seen."""
    try:
        with open(f"/proc/self/task/{thread}/syscall", encoding="ascii") as file:
            call = file.read().split()[0]
    except (OSError, IndexError):
        return False
    return call == "running" or (call.isdigit() and int(call) in _WAITING.get(platform.machine(), ()))


__all__ = ["is_free"]
