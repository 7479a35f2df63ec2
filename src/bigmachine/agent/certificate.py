"""Write a machine's death certificate from what the agent intended, the program said, and the kernel reports.

The first cause is the one kept: a machine that was told to end and then died by our own SIGKILL was shut down; a
program that reported a failing `init` and then exited with status 1 failed in `init`. Only when neither said anything
does the way the process ended speak for itself.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from bigmachine.errors import Cause, DeathCertificate
from bigmachine.frozen import frozen

#: The causes that a program may give of itself.
REPORTED: Final = frozenset({Cause.BOOT_FAILED, Cause.INIT_FAILED, Cause.EXITED})


@frozen
class Ending:
    """How a process ended: the kernel's wait status, its peak memory in bytes, its CPU time in seconds.

    `limits` are those on its memory (names as of setrlimit(2), and bytes), if it had any.
    """

    pid: int
    status: int
    peak_memory: int | None
    cpu_time: float | None
    limits: tuple[tuple[str, int], ...] = ()

    @property
    def signal(self) -> int | None:
        """The signal that ended it, if one did (the layout of a wait status is that of wait(2) everywhere)."""
        return self.status & 0x7F or None

    @property
    def exit_status(self) -> int | None:
        """The status with which it exited, if it did."""
        return None if self.signal else (self.status >> 8) & 0xFF


@frozen
class Reason:
    """Why a machine ends, as somebody who knew said it."""

    cause: Cause
    detail: str = ""
    text: str = ""
    exception: bytes | None = None


def peak_memory(ru_maxrss: int, platform: str = sys.platform) -> int:
    """Give ru_maxrss in bytes: Linux counts in KiB, macOS in bytes."""
    return ru_maxrss if platform == "darwin" else ru_maxrss * 1024


def certify(
    machine_id: str,
    ending: Ending,
    *,
    reason: Reason | None,
    is_serving: bool,
    started: float,
    stopped: float,
    last_lines: tuple[str, ...],
) -> DeathCertificate:
    """Put the certificate together. `reason` is the first that the agent had or the program gave, if any."""
    reason = reason or _told_by(ending, is_serving=is_serving)
    return DeathCertificate(
        cause=reason.cause.value,
        machine=machine_id,
        detail="; ".join(filter(None, (reason.detail, _limited(ending, reason, last_lines)))),
        exit_status=ending.exit_status,
        signal=ending.signal,
        pid=ending.pid,
        peak_memory=ending.peak_memory,
        cpu_time=ending.cpu_time,
        started=started,
        stopped=stopped,
        last_lines=last_lines,
    )


def _told_by(ending: Ending, *, is_serving: bool) -> Reason:
    detail = "" if is_serving else "it had not come up yet"
    return Reason(Cause.EXITED if ending.signal is None else Cause.SIGNAL, detail)


#: What is said, by Python, C++ and the C library, when there is no memory to be had.
_NO_MEMORY: Final = re.compile(r"MemoryError|bad_alloc|[Cc]annot allocate memory|[Oo]ut of memory|ENOMEM")
#: How a program ends that did not ask whether it got memory.
_WITHOUT_MEMORY: Final = frozenset({6, 7, 11})  # SIGABRT, SIGBUS, SIGSEGV
_ULIMIT: Final = {"RLIMIT_AS": "`ulimit -v`", "RLIMIT_DATA": "`ulimit -d`"}


def _limited(ending: Ending, reason: Reason, last_lines: tuple[str, ...]) -> str:
    """Name the limit on memory that the process had, if it may have died of it."""
    is_told = any(map(_NO_MEMORY.search, (reason.detail, reason.text, *last_lines)))
    if not ending.limits or not (is_told or ending.signal in _WITHOUT_MEMORY):
        return ""
    texts = [f"{name} was {limit / 2**20:.0f} MiB ({_ULIMIT[name]})" for name, limit in ending.limits]
    sure = "it had reached the limit on its memory" if is_told else "its memory was limited, and that may be why"
    return f"{sure}: {', '.join(texts)}; raise it, or let the machine keep less"


__all__ = ["REPORTED", "Ending", "Reason", "certify", "peak_memory"]
