"""Read the texts in which Linux states the limits of a container (pure: no file is opened here).

A process is in one control group of the unified hierarchy (version 2), or in one of each controller's hierarchy
(version 1), or, on hybrid hosts, in both kinds. `/proc/<pid>/cgroup` names the groups, `/proc/<pid>/mountinfo` where
their hierarchies are mounted. A limit holds for everything below it, so the groups above count as well: the tightest
wins. In a container without its own namespace for groups, the mount shows a part of the hierarchy, and the group's
name begins above it.

Sources: cgroups(7), proc_pid_mountinfo(5), the kernel's admin-guide/cgroup-v1/memory and cgroup-v2.
"""

from __future__ import annotations

import re
from typing import Literal

from bigmachine.frozen import frozen

#: Version 1 says "no limit" by the largest number of whole pages in a signed word; nobody has an exbibyte.
_UNLIMITED = 1 << 60

#: The name under which `groups` lists the one group of version 2.
UNIFIED = ""


@frozen
class Hierarchy:
    """Where the group of a process and those above it are seen: directories from the innermost outwards."""

    version: Literal[1, 2]
    directories: tuple[str, ...]


def groups(cgroup: str) -> dict[str, str]:
    """Parse `/proc/<pid>/cgroup`: controller -> path of the group, `UNIFIED` for version 2."""
    found = {}
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number and path.startswith("/"):
            found.update(dict.fromkeys(controllers.split(","), path))
    return found


def hierarchies(cgroup: str, mountinfo: str, controller: str) -> list[Hierarchy]:
    """Find where the limits of a controller ("memory", "cpu") stand, in version 1 and 2.

    `cgroup` and `mountinfo` are the texts of those files of the process.
    """
    own = groups(cgroup)
    found = []
    for line in mountinfo.splitlines():
        front, _, back = line.partition(" - ")
        if not back.startswith("cgroup"):  # a host with containers has hundreds of others
            continue
        front_fields, back_fields = front.split(), back.split()
        if len(front_fields) < 5 or len(back_fields) < 3:
            continue
        root, point = _unescape(front_fields[3]), _unescape(front_fields[4])
        if back_fields[0] == "cgroup2" and UNIFIED in own:
            found.append(Hierarchy(2, _directories(own[UNIFIED], root, point)))
        elif back_fields[0] == "cgroup" and controller in back_fields[2].split(",") and controller in own:
            found.append(Hierarchy(1, _directories(own[controller], root, point)))
    return found


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _directories(group: str, root: str, point: str) -> tuple[str, ...]:
    names, above = _names(group), _names(root)
    # A group outside of what is mounted (also: "/../other", seen from another namespace) shows only the mount's root.
    inside = names[: len(above)] == above and ".." not in names
    below = names[len(above) :] if inside else []
    return tuple("/".join([point.rstrip("/"), *below[:depth]]) or "/" for depth in range(len(below), -1, -1))


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def memory_limit_of(text: str) -> int | None:
    """Parse `memory.max` (2) or `memory.limit_in_bytes` (1): bytes, or None for no limit."""
    limit = _number(text)
    return limit if limit is not None and 0 <= limit < _UNLIMITED else None


def memory_used_of(usage: str, statistics: str) -> int | None:
    """Parse `memory.current` or `memory.usage_in_bytes`, less the cache that the kernel would drop first.

    `statistics` is the text of `memory.stat`. What remains is the working set, as Kubernetes counts it for eviction.
    """
    used = _number(usage)
    if used is None:
        return None
    counts = dict(line.split(" ", 1) for line in statistics.splitlines() if " " in line)
    inactive = _number(counts.get("total_inactive_file") or counts.get("inactive_file") or "") or 0
    return max(0, used - inactive)


def cpu_quota_of(maximum: str) -> float | None:
    """Parse `cpu.max` of version 2 ("150000 100000"): processors, or None for no limit."""
    quota, _, period = maximum.strip().partition(" ")
    return cpu_quota_of_version_1(quota, period or "100000")


def cpu_quota_of_version_1(quota: str, period: str) -> float | None:
    """Parse `cpu.cfs_quota_us` and `cpu.cfs_period_us`: processors, or None for no limit (-1)."""
    allowed, every = _number(quota), _number(period)
    if allowed is None or not every or allowed <= 0 or every <= 0:
        return None
    return allowed / every


def usable(processors: int, quota: float | None) -> int:
    """Return how many processors can be kept busy at once under a quota: at least one, a fraction rounded down.

    Down, because a process with one more busy thread than its quota allows is stopped for a part of every period.
    """
    return max(1, processors if quota is None else min(processors, int(quota)))


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:  # "max", or a file that is not there
        return None
