"""Find and kill processes: all that a machine started, and at the agent's end all that is below the agent.

A machine leads a session and a process group of its own, so one killpg gets nearly everything at once. What is left
has called setsid or setpgid. The agent is a subreaper: such a process becomes the agent's child as soon as its own
parent is dead, so killing from the top down brings everything into view, level by level. Whose it was is told by its
session, or by the mark that every machine has in its environment and passes on. Resource trackers are killed last.

Reading another process is /proc; where there is none, only the process groups are killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bigmachine.agent.processes.trackers import TIDYING, has_tracker, trackers
from bigmachine.agent.vitals import Sample
from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

#: In the environment of a machine and of what it starts: the machine's id.
MARK: Final = "BIGMACHINE_MACHINE"

#: Thousandths of all memory that a machine seems to use beyond what it does, when a victim is sought.
_OOM_OFFER: Final = 300

#: include/linux/sched.h: getting shut down.
_PF_EXITING: Final = 0x4


@frozen
class Process:
    """A line of /proc/PID/stat, as far as it matters here.

    `cpu` is in clock ticks, user and system. `is_ending`: it has begun to exit, and may have closed its files.
    """

    pid: int
    state: str
    parent: int
    group: int
    session: int
    cpu: int
    is_ending: bool = False


def threads() -> int:
    """Count this process's threads, those that Python does not know included."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def parse_stat(text: str) -> Process:
    """Read /proc/PID/stat; the command's name stands in parentheses and may contain anything.

    Raises:
        ValueError: if it is none.
    """
    before, _, after = text.rpartition(")")
    fields = after.split()
    if len(fields) < 13:
        raise ValueError(f"{text!r} is no line of /proc/PID/stat")
    return Process(
        pid=int(before.partition(" ")[0]),
        state=fields[0],
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        cpu=int(fields[11]) + int(fields[12]),
        is_ending=fields[0] in "ZX" or bool(int(fields[6]) & _PF_EXITING),
    )


def look_at(pid: int) -> Process | None:
    """Look at one process; None if it is gone or the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return parse_stat(file.read())
    except (OSError, ValueError):
        return None


def sample(pid: int) -> Sample | None:
    """Look at one process for signs of life."""
    seen = look_at(pid)
    return None if seen is None else Sample(seen.state, seen.cpu)


def memory_in_use() -> float:
    """Give the share of the host's memory that cannot be had any more, in percent; 0 where the system hides it.

    Read here, in 0.1 ms, because it comes with every keepalive and psutil takes 10 ms to import.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return 100.0 * (1 - sizes["MemAvailable"] / sizes["MemTotal"])
    except (OSError, ValueError, LookupError, ZeroDivisionError):
        return 0.0


def children() -> list[int]:
    """Give the pids of this process's children, zombies included."""
    found: list[int] = []
    try:
        for thread in Path("/proc/self/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    except OSError:
        return _children_by_scan()
    return found


def _children_by_scan() -> list[int]:
    """The same for a kernel without /proc/PID/task/TID/children: look at every process."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    seen = map(look_at, pids)
    own = os.getpid()
    return [process.pid for process in seen if process and process.parent == own]


def kill_group(pid: int) -> None:
    """Kill the process group that `pid` leads. `pid` must not have been waited for: then others may have its number.

    Of a group with a resource tracker only the leader is killed: the others come into view when it is dead.
    """
    is_sparing = has_tracker(pid) or bool(trackers(_orphans_of_group(pid)))
    # The second for one that has not become a leader yet.
    for kill in (os.kill,) if is_sparing else (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _orphans_of_group(group: int) -> list[int]:
    """Give the children of this process that are in a group, but do not lead it: the leader is dead."""
    found = []
    for pid in children():
        with contextlib.suppress(ProcessLookupError):
            if pid != group and os.getpgid(pid) == group:  # a call, not a file to be read: there may be hundreds
                found.append(pid)
    return found


def offer_to_oom_killer(pid: int) -> None:
    """Have the kernel kill `pid` or what it starts, rather than us or a driver, when there is no memory left.

    A machine that is killed is certified, and its work is done again by another one; a driver's is lost.
    """
    place = Path(f"/proc/{pid}/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):  # no /proc, or it is gone
        place.write_text(str(min(1000, int(place.read_text()) + _OOM_OFFER)))


def strays_of(machine_id: str, session: int, known: Collection[int]) -> list[int]:
    """Give those children of ours that the machine left behind. `known` are the children we started ourselves."""
    return [pid for pid in children() if pid not in known and _belongs(pid, machine_id, session)]


def _belongs(pid: int, machine_id: str, session: int) -> bool:
    process = look_at(pid)
    if process is None or process.state == "Z":
        return False
    if session in (process.session, process.group):
        return True
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{MARK}={machine_id}".encode() in environment.split(b"\0")


def kill_all(pids: Iterable[int]) -> None:
    """Kill processes, with their groups if they lead one."""
    for pid in pids:
        kill_group(pid)


def end_everything(groups: Iterable[int], limit: float = 0.5, spared: Collection[int] = ()) -> bool:
    """Kill the given groups and everything else below this process. Takes at most `limit` seconds; True if all is gone.

    For a process that is about to exit: it takes the exit statuses of all its children but those `spared`.
    """
    kill_all(groups)
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < limit:
        left = {pid for pid in children() if pid not in spared and not _reap(pid)}
        if not left:
            return True
        kill_all(left - trackers(left) if passed < TIDYING else left)
        time.sleep(0.001)
    return False


def _reap(pid: int) -> bool:
    """Take the exit status of a child; False if it lives."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True  # somebody else was faster


__all__ = [
    "MARK",
    "Process",
    "children",
    "end_everything",
    "kill_all",
    "kill_group",
    "look_at",
    "memory_in_use",
    "offer_to_oom_killer",
    "parse_stat",
    "sample",
    "strays_of",
    "threads",
]
