"""Watch the memory that machines may use, and say when it is nearly used up, while they can still be looked into.

What can run out is a *pool*: the host's memory, that of a control group (the tightest that a machine is in), or what a
process may have by setrlimit(2). A pool is short when `SHORT` of it is in use, or when processes already wait for
memory most of the time (PSI, the kernel's pressure stall information, where it has that) and `CROWDED` is in use. Then
the machine that takes the most of it is told of. It is not told of again before the pool has been down to `RELIEVED`,
so a level that swings around the limit is one message, but another machine that gets ahead is another.

The rules are `Alarms`, which knows no clock and reads nothing; `look` reads.
"""

from __future__ import annotations

import os
import re
import resource
from typing import TYPE_CHECKING, Final

from bigmachine.agent.watch.texts import text_of
from bigmachine.frozen import frozen
from bigmachine.observe import cgroups

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHORT: Final = 0.9
RELIEVED: Final = 0.8
CROWDED: Final = 0.7
#: From this share on a look is worth its cost more often.
NEAR: Final = 0.7
#: Seconds between two looks, as a rule and when a pool is near its end. A look takes 0.2 ms.
USUAL_PERIOD: Final = 0.5
NEAR_PERIOD: Final = 0.05
#: Percent of the time in which all processes waited for memory, over the last ten seconds.
_PRESSURE: Final = 20.0
#: So often, at least, a pool is looked at before it is short, if it goes on to fill as it does.
_LOOKS: Final = 4
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PRESSURE_LINE: Final = re.compile(r"^full avg10=([\d.]+)", re.MULTILINE)
HOST: Final = "the host's memory"


@frozen
class Pool:
    """Memory that several machines may share: what it is, and its bytes. `pressure`: as PSI tells, in percent."""

    name: str
    used: int
    limit: int
    pressure: float | None = None

    @property
    def share(self) -> float:
        """How much of it is in use, from 0 to 1."""
        return self.used / self.limit if self.limit > 0 else 0.0

    @property
    def is_short(self) -> bool:
        """Whether it will soon be used up."""
        return self.share >= SHORT or (self.share >= CROWDED and (self.pressure or 0.0) >= _PRESSURE)


@frozen
class Use:
    """What one machine uses: bytes that are in memory, and the pools that these are of."""

    machine: str
    resident: int
    pools: tuple[Pool, ...]


@frozen
class Shortage:
    """A pool is short, and this machine takes the most of it."""

    machine: str
    resident: int
    pool: Pool


class Alarms:
    """Decides what is worth telling."""

    def __init__(self) -> None:
        self._told: dict[str, set[str]] = {}

    def judge(self, uses: Iterable[Use]) -> list[Shortage]:
        """Take note of how things are; gives what is new."""
        pools: dict[str, Pool] = {}
        largest: dict[str, Use] = {}
        for use in uses:
            for pool in use.pools:
                pools[pool.name] = pool
                if pool.name not in largest or use.resident > largest[pool.name].resident:
                    largest[pool.name] = use
        for name in list(self._told):
            if name not in pools or (pools[name].share < RELIEVED and not pools[name].is_short):
                del self._told[name]
        return list(self._new(pools, largest))

    def _new(self, pools: Mapping[str, Pool], largest: Mapping[str, Use]) -> Iterable[Shortage]:
        for name, pool in pools.items():
            use = largest[name]
            if pool.is_short and use.machine not in self._told.setdefault(name, set()):
                self._told[name].add(use.machine)
                yield Shortage(use.machine, use.resident, pool)


def period(uses: Iterable[Use], before: Iterable[Use], elapsed: float) -> float:
    """Say how soon to look again. `before` is how things were `elapsed` seconds ago: what grows fast is soon full."""
    then = {pool.name: pool.used for use in before for pool in use.pools}
    wait = USUAL_PERIOD
    for pool in {pool.name: pool for use in uses for pool in use.pools}.values():
        if pool.share >= NEAR:
            return NEAR_PERIOD
        rate = (pool.used - then.get(pool.name, pool.used)) / max(elapsed, 1e-3)
        if rate > 0:
            wait = min(wait, (SHORT * pool.limit - pool.used) / rate / _LOOKS)
    return max(NEAR_PERIOD, wait)


class Looker:
    """Reads what machines use. `directory`: the control group of our own that machines may be in, which limits nothing.

    Machines that are in the same groups share the reading of these.
    """

    def __init__(self, directory: str = "") -> None:
        self._directory = directory

    def look(self, machines: Mapping[str, int]) -> list[Use]:
        """Read what these machines (id -> process) use; those that are gone are left out."""
        host = _host()
        mounts = text_of("/proc/self/mountinfo")
        groups: dict[str, Pool | None] = {}
        uses = []
        for machine, pid in machines.items():
            sizes = text_of(f"/proc/{pid}/statm").split()
            own = self._ours(text_of(f"/proc/{pid}/cgroup"))
            if len(sizes) < 2 or not own:
                continue
            if own not in groups:
                groups[own] = _group(own, mounts)
            virtual, resident = int(sizes[0]) * _PAGE, int(sizes[1]) * _PAGE
            pools = [host, groups[own], *_limits(machine, pid, virtual)]
            uses.append(Use(machine, resident, tuple(pool for pool in pools if pool is not None)))
        return uses

    def _ours(self, own: str) -> str:
        """Leave out the part of a group's path that is ours: it differs from machine to machine, and says nothing."""
        name = os.path.basename(self._directory)
        return re.sub(rf"/{re.escape(name)}(/[^\n]*)?$", "/", own, flags=re.MULTILINE) if name else own


def _host() -> Pool | None:
    sizes = {}
    for line in text_of("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            sizes[name] = int(rest.split()[0]) * 1024
    if len(sizes) < 2:
        return None
    return Pool(HOST, sizes["MemTotal"] - sizes["MemAvailable"], sizes["MemTotal"], _pressure("/proc/pressure/memory"))


def _group(own: str, mounts: str) -> Pool | None:
    """Give the tightest control group."""
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
    found = []
    for hierarchy in cgroups.hierarchies(own, mounts, "memory"):
        limit_name, used_name = names[hierarchy.version]
        for directory in hierarchy.directories:
            limit = cgroups.memory_limit_of(text_of(f"{directory}/{limit_name}"))
            if limit:
                used = cgroups.memory_used_of(text_of(f"{directory}/{used_name}"), text_of(f"{directory}/memory.stat"))
                pressure = _pressure(f"{directory}/memory.pressure")
                found.append(Pool(f"the control group {directory}", used or 0, limit, pressure))
    return max(found, key=lambda pool: pool.share, default=None)


def _limits(machine: str, pid: int, virtual: int) -> Iterable[Pool]:
    if not hasattr(resource, "prlimit"):
        return
    try:
        limit = resource.prlimit(pid, resource.RLIMIT_AS)[0]
    except OSError:
        return
    if limit != resource.RLIM_INFINITY:
        yield Pool(f"the address space of {machine} (RLIMIT_AS)", virtual, limit)


def _pressure(path: str) -> float | None:
    found = _PRESSURE_LINE.search(text_of(path))
    return float(found[1]) if found else None


__all__ = [
    "RELIEVED",
    "SHORT",
    "Alarms",
    "Looker",
    "Pool",
    "Shortage",
    "Use",
    "period",
]
