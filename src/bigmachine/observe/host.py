"""Facts of the host that a machine is on: memory, disk, load (Go: `MemInfo`, `DiskInfo`, `LoadInfo`)."""

from __future__ import annotations

import os

from bigmachine.frozen import frozen
from bigmachine.observe.limits import memory_limit, usable_cpus


@frozen
class MemInfo:
    """Memory, in bytes: of the host, of the container around the process, and of the process.

    `available` is what can be had without swapping, `percent` the share of `total` that cannot. `limit` and
    `limit_used` are the container's, None outside of one; `rss` is what the process holds, None if no process was
    asked about or it is gone.
    """

    total: int
    available: int
    used: int
    percent: float
    limit: int | None = None
    limit_used: int | None = None
    rss: int | None = None

    @property
    def headroom(self) -> int:
        """How much more can be had before the host or the container runs out."""
        if self.limit is None:
            return self.available
        return max(0, min(self.available, self.limit - (self.limit_used or 0)))


@frozen
class DiskInfo:
    """The file system that `path` is on, in bytes; `free` is what this user can still write."""

    path: str
    total: int
    used: int
    free: int
    percent: float


@frozen
class LoadInfo:
    """The host's load averages over 1, 5 and 15 minutes, and how many processors this process can use."""

    load1: float
    load5: float
    load15: float
    cpus: int


def mem_info(pid: int | None = None) -> MemInfo:
    """Return the memory of this host and its container, and of process `pid`."""
    import psutil

    host = psutil.virtual_memory()
    limit = memory_limit(f"/proc/{pid or 'self'}")
    return MemInfo(
        total=host.total,
        available=host.available,
        used=host.used,
        percent=host.percent,
        limit=None if limit is None else limit.limit,
        limit_used=None if limit is None else limit.used,
        rss=None if pid is None else _resident(pid),
    )


def _resident(pid: int) -> int | None:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it is gone, or somebody else's
        return None


def disk_info(path: str | os.PathLike[str] | None = None) -> DiskInfo:
    """Return the state of the file system that `path` is on, or the directory for temporary files.

    Raises:
        FileNotFoundError: There is no such path.
    """
    import tempfile

    import psutil

    place = os.fspath(path) if path is not None else tempfile.gettempdir()
    usage = psutil.disk_usage(place)
    return DiskInfo(place, usage.total, usage.used, usage.free, usage.percent)


def load_info() -> LoadInfo:
    """Return the load of this host."""
    import psutil

    load1, load5, load15 = psutil.getloadavg()
    return LoadInfo(load1, load5, load15, usable_cpus())
