"""What the container, if any, allows this process: memory and processors.

The reading of the files; what their texts mean is in `cgroups`. A file that is missing or forbidden states no limit:
hosts differ in which there are, and a machine must come up on all of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

from bigmachine.frozen import frozen
from bigmachine.observe import cgroups


@frozen
class MemoryLimit:
    """The tightest limit on memory: `limit` bytes for the group, of which `used` are in use (None: unknown)."""

    limit: int
    used: int | None


def memory_limit(proc: str = "/proc/self") -> MemoryLimit | None:
    """Return the container's limit on memory, or None if there is none.

    The tightest is the one with the least left. `proc` is the directory of the process that is asked about.
    """
    found = list(_memory_limits(proc))
    return min(found, key=lambda one: one.limit - (one.used or 0), default=None)


def cpu_quota(proc: str = "/proc/self") -> float | None:
    """Return how many processors' worth of time the container grants, or None if it does not say."""
    return min(_cpu_quotas(proc), default=None)


def usable_cpus(proc: str = "/proc/self") -> int:
    """Return how many processors this process can keep busy at once, at least one.

    The scheduler's affinity (taskset, Slurm, cpusets) and the container's quota both count.
    """
    return cgroups.usable(_affinity(), cpu_quota(proc))


def _affinity() -> int:
    if sys.platform != "win32" and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_limits(proc: str) -> Iterator[MemoryLimit]:
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
    for version, read in _groups(proc, "memory"):
        limit_name, used_name = names[version]
        if (limit := cgroups.memory_limit_of(read(limit_name))) is not None:
            yield MemoryLimit(limit, cgroups.memory_used_of(read(used_name), read("memory.stat")))


def _cpu_quotas(proc: str) -> Iterator[float]:
    for version, read in _groups(proc, "cpu"):
        if version == 2:
            quota = cgroups.cpu_quota_of(read("cpu.max"))
        else:
            quota = cgroups.cpu_quota_of_version_1(read("cpu.cfs_quota_us"), read("cpu.cfs_period_us"))
        if quota is not None:
            yield quota


def _groups(proc: str, controller: str) -> Iterator[tuple[int, Callable[[str], str]]]:
    """Yield version and reader of each group that the process is in, from the innermost outwards."""
    mountinfo = _text(proc, "mountinfo")
    for hierarchy in cgroups.hierarchies(_text(proc, "cgroup"), mountinfo, controller):
        for directory in hierarchy.directories:
            yield hierarchy.version, _reader(directory)


def _reader(directory: str) -> Callable[[str], str]:
    return lambda name: _text(directory, name)


def _text(directory: str, name: str) -> str:
    try:
        with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
