"""Control groups of our own: one for an agent, in it one for each machine, where this user may make any.

What a machine starts is born into its group, and nothing that it does gets it out again: not setsid, not a double
fork, not an empty environment. Version 2 kills a group with all in it by one write to `cgroup.kill` (since Linux
5.14); in version 1, and before that, its processes are killed one by one until there is none. The groups limit
nothing: what the host or a batch system grants stands in the groups above and goes on to hold.

The kernel takes 10 ms to move a process into a group unless it has just moved another, so that is done by a thread
while the program boots; what the program starts in this time is found by its session or its mark (`processes`).

Only what every Python has loaded is imported here, because the undertaker needs it, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ControlGroups:
    """The groups of one agent, below `directory`, which is the agent's own."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    @classmethod
    def make(cls, name: str) -> ControlGroups | None:
        """Make a group of this name below the one that this process is in; None where that cannot be."""
        for directory in _writable():
            path = os.path.join(directory, name)
            try:
                os.mkdir(path)
            except OSError:
                continue
            if os.access(os.path.join(path, "cgroup.procs"), os.W_OK):
                return cls(path)
            remove(path, 0)
        return None

    def begin(self, machine_id: str, pid: int, run: Callable[[Callable[[], None]], object]) -> None:
        """Put a machine's process into a group of its own; `run` runs what may take a moment in another thread."""
        path = self._path(machine_id)
        with contextlib.suppress(OSError):  # it is there already, or cannot be: then the move fails, too
            os.mkdir(path)
        run(lambda: _move(path, pid))

    def kill(self, machine_id: str) -> None:
        """Kill all that is in a machine's group."""
        kill(self._path(machine_id))

    def end(self, machine_id: str) -> bool:
        """Remove a machine's group; False if something is still in it."""
        return remove(self._path(machine_id), 0)

    def _path(self, machine_id: str) -> str:
        return os.path.join(self.directory, machine_id)


def _writable() -> list[str]:
    """Give the directories of the groups that this process is in, the unified hierarchy first."""
    from bigmachine.observe import cgroups

    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = file.read()
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            mounts = file.read()
    except OSError:
        return []
    # In version 1 the pids controller is the one whose groups cost and mean nothing.
    found = sorted(cgroups.hierarchies(own, mounts, "pids"), key=lambda hierarchy: -hierarchy.version)
    return [hierarchy.directories[0] for hierarchy in found if os.access(hierarchy.directories[0], os.W_OK)]


def _move(directory: str, pid: int) -> None:
    with contextlib.suppress(OSError):  # it is dead already, or the group is gone with it
        _write(os.path.join(directory, "cgroup.procs"), str(pid))


def kill(directory: str) -> None:
    """Kill all that is in a group and those below it; harmless for one that is not there."""
    try:
        _write(os.path.join(directory, "cgroup.kill"), "1")
    except OSError:
        _kill_one_by_one(directory)


def _kill_one_by_one(directory: str) -> None:
    for place, _, _ in os.walk(directory):
        for pid in _members(place):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _members(directory: str) -> list[int]:
    try:
        with open(os.path.join(directory, "cgroup.procs"), encoding="ascii") as file:
            return [int(line) for line in file]
    except (OSError, ValueError):
        return []


def remove(directory: str, patience: float) -> bool:
    """Remove a group and those below it, killing what is in them; True if it is gone within `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        for place, _, _ in os.walk(directory, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(place)
        if not os.path.isdir(directory):
            return True
        if time.monotonic() >= end:
            return False
        kill(directory)
        time.sleep(0.001)


def _write(path: str, text: str) -> None:
    # Without O_CREAT: in a file system that is no cgroup's this must not make a file.
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


__all__ = ["ControlGroups", "kill", "remove"]
