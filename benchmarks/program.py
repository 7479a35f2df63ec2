"""A whole program that is measured from outside: its start, its processes, its end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

_PROGRAMS = Path(__file__).with_name("programs")
FIVE_MACHINES = (sys.executable, str(_PROGRAMS / "five_machines.py"))
MANY_MACHINES = (sys.executable, str(_PROGRAMS / "many_machines.py"))
NUMPY_FORKED = (sys.executable, str(_PROGRAMS / "five_numpy.py"))
NUMPY_SPAWNED = (*NUMPY_FORKED, "spawn")
FORKSERVER = (sys.executable, str(_PROGRAMS / "five_forkserver.py"))
EXECNET = (sys.executable, str(_PROGRAMS / "five_execnet.py"))
MONARCH = (sys.executable, str(_PROGRAMS / "five_monarch.py"))
_PATIENCE = 60.0


class Program:
    """A program that says "ready" and then waits for the end of its standard input."""

    def __init__(self, *command: str) -> None:
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            command, process_group=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        select.select([self._process.stdout], [], [], _PATIENCE)
        self.ready_after = time.perf_counter() - begin
        os.set_blocking(self._process.stdout.fileno(), False)
        line = self._process.stdout.readline()
        if line.strip() != b"ready":
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise RuntimeError(f"{' '.join(command)} said {line!r} instead of being ready")

    def processes(self) -> list[psutil.Process]:
        """Return it and all its descendants."""
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def end(self) -> float:
        """Let it end; return the seconds until it has."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Not by a wait with a limit: that looks after 64 ms and then after 114, and nothing in between would be told.
        watched = [os.pidfd_open(self._process.pid)]
        begin = time.perf_counter()
        self._process.stdin.close()
        took = _all_gone(watched, begin)
        self._process.wait()
        self._process.stdout.close()
        return took

    def kill(self) -> float:
        """Kill it with SIGKILL; return the seconds until it and all its descendants are gone."""
        watched = [os.pidfd_open(process.pid) for process in self.processes()]
        begin = time.perf_counter()
        self._process.kill()
        took = _all_gone(watched, begin)
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        return took


def _all_gone(watched: list[int], begin: float) -> float:
    waiting = set(watched)
    poll = select.poll()
    for descriptor in watched:
        poll.register(descriptor, select.POLLIN)  # a process descriptor is readable once the process has ended
    while waiting:
        ended = poll.poll(_PATIENCE * 1000)
        if not ended:
            raise TimeoutError(f"{len(waiting)} processes were still there after {_PATIENCE:.0f} s")
        for descriptor, _ in ended:
            poll.unregister(descriptor)
            waiting.discard(descriptor)
            os.close(descriptor)
    return time.perf_counter() - begin
