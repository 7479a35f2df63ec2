"""What an agent answers about a machine: values, which a driver reads without what an agent takes to make them."""

from __future__ import annotations

from bigmachine.frozen import frozen


@frozen
class MachineInfo:
    """What kind of machine this is. `digest` names its image; empty where it runs the driver's own files."""

    hostname: str
    platform: str
    python: str
    maxprocs: int
    pid: int
    entry: str
    digest: str = ""


@frozen
class KeepaliveReply:
    """The lease that a machine now has, in seconds, and whether its host has memory to spare."""

    next_s: float
    healthy: bool


__all__ = ["KeepaliveReply", "MachineInfo"]
