"""Take the exit statuses of all the agent's children, its own and the orphans it inherits as a subreaper.

There is one rule: nobody else in this process waits for a child, so there is no asyncio.subprocess here and no Popen
(their waits would race with the one for orphans, and whoever loses sees no status). SIGCHLD tells that somebody died;
wait4 gives status and resource usage together. A machine leads a process group, which is killed before its leader is
waited for.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bigmachine.agent.certificate import Ending, peak_memory
from bigmachine.agent.processes.tree import kill_group

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator


class Reaper:
    """Waits for children on `loop`, which must run in the main thread (signals go there)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._awaited: dict[int, asyncio.Future[Ending]] = {}
        self._births = 0
        self._early: dict[int, Ending] = {}
        loop.add_signal_handler(signal.SIGCHLD, self._reap)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Surround the start of a child, up to `watch`: one that dies before its pid is known is not lost."""
        self._births += 1
        try:
            yield
        finally:
            self._births -= 1
            if not self._births:
                # Kept no longer, because the kernel gives the pids to others.
                self._early.clear()

    def watch(self, pid: int) -> asyncio.Future[Ending]:
        """Give the future of a child's end. Call it once for each child, inside `expecting`."""
        future: asyncio.Future[Ending] = self._loop.create_future()
        if (ending := self._early.pop(pid, None)) is not None:
            future.set_result(ending)
        else:
            self._awaited[pid] = future
        return future

    @property
    def known(self) -> set[int]:
        """The pids of the children that somebody watches."""
        return set(self._awaited)

    def close(self) -> None:
        """Stop reaping; futures that are open stay open."""
        self._loop.remove_signal_handler(signal.SIGCHLD)

    def _reap(self) -> None:
        while (pid := _dead_child()) is not None:
            if pid in self._awaited:
                # While it has not been waited for, its number, and so its group's, cannot be given to another.
                kill_group(pid)
                limits = memory_limits(pid)
            else:
                limits = ()
            try:
                pid, status, usage = os.wait4(pid, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._report(Ending(pid, status, peak_memory(usage.ru_maxrss), usage.ru_utime + usage.ru_stime, limits))

    def _report(self, ending: Ending) -> None:
        future = self._awaited.pop(ending.pid, None)
        if future is None:
            if self._births:
                self._early[ending.pid] = ending
        elif not future.done():
            future.set_result(ending)


def memory_limits(pid: int) -> tuple[tuple[str, int], ...]:
    """Give the limits on memory that a child, which may be dead, has or had: names as of setrlimit(2), and bytes."""
    if not hasattr(resource, "prlimit"):
        return ()
    found = []
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        try:
            limit = resource.prlimit(pid, getattr(resource, name))[0]
        except OSError:
            continue
        if limit != resource.RLIM_INFINITY:
            found.append((name, limit))
    return tuple(found)


def _dead_child() -> int | None:
    """Give a child that has died and not been waited for; -1 (any) where the system cannot say which."""
    if sys.platform == "darwin":
        return -1
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


__all__ = ["Reaper", "memory_limits"]
