"""Facts of the host: memory, disk, load, and what the container around us allows."""

from bigmachine.observe.host import DiskInfo, LoadInfo, MemInfo, disk_info, load_info, mem_info
from bigmachine.observe.limits import MemoryLimit, cpu_quota, memory_limit, usable_cpus

__all__ = [
    "DiskInfo",
    "LoadInfo",
    "MemInfo",
    "MemoryLimit",
    "cpu_quota",
    "disk_info",
    "load_info",
    "mem_info",
    "memory_limit",
    "usable_cpus",
]
