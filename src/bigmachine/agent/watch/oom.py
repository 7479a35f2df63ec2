"""Tell whether it was the kernel that killed a process, for want of memory.

The kernel sends SIGKILL like anybody else; three places tell that it was its own doing, the best first:

- the kernel's log (/dev/kmsg) names the victim. It is read from where it stood when the agent started. Reading it may
  need a permission (kernel.dmesg_restrict), and in a container with a numbering of processes of its own the log has
  other numbers, so that it can then say yes, but not no;
- the control group of the victim counts such kills: `oom_kill` in `memory.events` (version 2, those of the groups
  below included) or in `memory.oom_control` (version 1);
- the whole host counts them in /proc/vmstat: a kill in the seconds before, though perhaps somebody else's.

A count is compared with what it was some seconds ago, because a process with much memory takes a while to die, and
one that rose for one victim is not used for another.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Final

from bigmachine.agent.watch.texts import text_of
from bigmachine.frozen import frozen
from bigmachine.observe import cgroups

#: Two lines of the kernel (mm/oom_kill.c) that name a victim; the first comes when it is chosen.
_VICTIM: Final = re.compile(r"(?:Killed process |oom-kill:.*\bpid=)(\d+)")
_OF_GROUP: Final = ("CONSTRAINT_MEMCG", "Memory cgroup out of memory")
#: What stands in lines before these: the group whose limit was reached, and the limit. Not for each of many kills.
_GROUP: Final = re.compile(r"oom-kill:.*\boom_memcg=([^,]+)")
_LIMIT: Final = re.compile(r";memory: usage \d+kB, limit (\d+)kB")
_COUNT: Final = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
#: The number that the kernel gives to the first name space of process ids (PROC_PID_INIT_INO).
_FIRST_PIDS: Final = "pid:[4026531836]"
#: So long ago, at least, is what a count is compared with.
_BEFORE: Final = 2.0
#: Records of the log that are read at once: more than it can hold, less than endless.
_RECORDS: Final = 100_000
_FILES: Final = {1: "memory.oom_control", 2: "memory.events"}
_LIMITS: Final = {1: "memory.limit_in_bytes", 2: "memory.max"}
_VMSTAT: Final = "/proc/vmstat"


@frozen
class Verdict:
    """Whether the kernel did it, and what to say of it."""

    is_oom: bool
    detail: str = ""


@frozen
class Victim:
    """A process that the kernel killed; `of_group`: because its control group had reached its limit, not the host.

    `limit` (bytes) and `group` are those of the control group, if the log has them.
    """

    pid: int
    of_group: bool
    limit: int = 0
    group: str = ""


def victim_in(record: str) -> Victim | None:
    """Give the process that a record of the kernel's log says was killed; None if it says something else."""
    line = record.partition("\n")[0]
    found = _VICTIM.search(line)
    return Victim(int(found[1]), any(words in line for words in _OF_GROUP)) if found else None


class KernelLog:
    """The kernel's log from now on; `why_not` says why it cannot be read, if so."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self.why_not = ""
        self.is_complete = False
        self._victims: dict[int, Victim] = {}
        self._limit = 0
        self._group = ""
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
            self.is_complete = os.readlink("/proc/self/ns/pid") == _FIRST_PIDS
        except OSError as error:
            self._fd = -1
            self.why_not = f"{path} cannot be read: {error.strerror}"

    def look_up(self, pid: int) -> Victim | None:
        """Give what it says of this process as a victim; once, for the number may be another's next."""
        for _ in range(_RECORDS if self._fd >= 0 else 0):
            try:
                record = os.read(self._fd, 8192)
            except BrokenPipeError:
                continue  # the oldest were overwritten meanwhile
            except OSError:
                break
            if not record:
                break
            self._take(record.decode("utf-8", "replace"))
        return self._victims.pop(pid, None)

    def _take(self, record: str) -> None:
        if (limit := _LIMIT.search(record)) is not None:
            self._limit = int(limit[1]) * 1024
        if (group := _GROUP.search(record)) is not None:
            self._group = group[1]
        if (victim := victim_in(record)) is not None:
            if victim.of_group:
                victim = replace(victim, limit=self._limit, group=self._group)
            self._victims[victim.pid] = victim
            if "Killed process" in record:  # the last line of its story
                self._limit, self._group = 0, ""

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OomWatch:
    """Looks at the counts now and then (`glance`), and gives a verdict on a process that died of SIGKILL."""

    def __init__(self, log: KernelLog | None = None, now: float = 0.0) -> None:
        self._log = log or KernelLog()
        self._groups: dict[int, list[tuple[int, str]]] = {}
        self._mounts = ""
        self._places: dict[str, list[tuple[int, str]]] = {}  # by what /proc/<pid>/cgroup says
        self._older: dict[str, int] = {}
        self._newer: dict[str, int] = {}
        self._turned = now - _BEFORE
        self._count(_VMSTAT)

    def glance(self, pids: list[int], now: float) -> None:
        """Note the groups that these processes are in, and where their counts stand. `now` is in seconds."""
        mounts = text_of("/proc/self/mountinfo")
        if mounts != self._mounts:
            self._mounts, self._places = mounts, {}
        for pid in pids:
            own = text_of(f"/proc/{pid}/cgroup")
            if own:
                if own not in self._places:
                    found = cgroups.hierarchies(own, mounts, "memory")
                    self._places[own] = [(each.version, place) for each in found for place in each.directories]
                self._groups[pid] = self._places[own]
                for version, place in self._groups[pid]:
                    self._count(os.path.join(place, _FILES[version]))
        if now - self._turned >= _BEFORE:
            self._turned = now
            self._turn()

    def _turn(self) -> None:
        """Let what was counted last be what is compared with from now on, and go of what concerns nobody any more."""
        used = {id(groups) for groups in self._groups.values()}
        self._places = {own: groups for own, groups in self._places.items() if id(groups) in used}
        places = {place for groups in self._groups.values() for place in groups}
        paths = {_VMSTAT, *(os.path.join(place, _FILES[version]) for version, place in places)}
        self._older = {path: count for path, count in (self._older | self._newer).items() if path in paths}
        self._newer = {path: count for path in self._older if (count := _count_in(path)) is not None}

    def forget(self, pid: int) -> None:
        """Let go of a process whose end was judged."""
        self._groups.pop(pid, None)

    def judge(self, pid: int) -> Verdict:
        """Say whether the kernel killed it for want of memory."""
        groups = self._groups.get(pid, [])
        named = self._log.look_up(pid)
        risen = [place for place in groups if self._has_risen(os.path.join(place[1], _FILES[place[0]]))]
        anywhere = self._has_risen(_VMSTAT)
        if named is not None and named.limit:
            return Verdict(True, f"the kernel killed it because {_used_up(named.limit, named.group)}")
        if named is not None:
            return Verdict(True, f"the kernel killed it because {_shortage(groups if named.of_group else [])}")
        if risen and not self._log.is_complete:
            return Verdict(True, f"the kernel killed it because {_shortage(risen)}")
        if self._log.is_complete:
            return Verdict(False, "not for want of memory, for the kernel's log says nothing of it")
        if anywhere and self._log.why_not:
            return Verdict(
                True,
                "the kernel killed a process of this host because there was no memory left, in the seconds in which "
                f"this one was killed; that it was this one is only likely, since {self._log.why_not}",
            )
        if self._log.why_not and not any(_count_in(os.path.join(at, _FILES[v])) is not None for v, at in groups):
            return Verdict(False, f"whether it was the kernel's doing cannot be told: {self._log.why_not}")
        return Verdict(False)

    def _count(self, path: str) -> None:
        if path not in self._older and (count := _count_in(path)) is not None:
            self._older[path] = count

    def _has_risen(self, path: str) -> bool:
        """Tell whether a count has risen, and use up one of it."""
        before, now = self._older.get(path), _count_in(path)
        if before is None or now is None or now <= before:
            return False
        self._older[path] = before + 1
        self._newer[path] = max(before + 1, self._newer.get(path, 0))
        return True


def _shortage(groups: list[tuple[int, str]]) -> str:
    limits = []
    for version, place in groups:
        limit = cgroups.memory_limit_of(text_of(os.path.join(place, _LIMITS[version])))
        if limit is not None:
            limits.append((limit, place))
    if not limits:
        return "the host had no memory left"
    limit, place = min(limits)
    return _used_up(limit, place)


def _used_up(limit: int, group: str) -> str:
    return f"its control group had used up its limit of {limit / 2**20:.0f} MiB" + (f" ({group})" if group else "")


def _count_in(path: str) -> int | None:
    found = _COUNT.search(text_of(path))
    return int(found[1]) if found else None


__all__ = ["KernelLog", "OomWatch", "Verdict", "Victim", "victim_in"]
