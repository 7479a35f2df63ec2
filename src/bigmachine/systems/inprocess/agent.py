"""What the session calls at an agent, for the machines of this process."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, NoReturn, Protocol

from bigmachine.agent import Event, KeepaliveReply, LaunchSpec, MachineInfo
from bigmachine.errors import AuthenticationError, Cause, DeathCertificate, InvalidCall, MachineStopped
from bigmachine.observe import DiskInfo, LoadInfo, MemInfo, disk_info, load_info, mem_info
from bigmachine.systems.inprocess.feed import EventFeed
from bigmachine.systems.inprocess.machine import InprocessMachine
from bigmachine.trust import Peer, Role

if TYPE_CHECKING:
    from bigmachine.observe.vars import Reading

#: What others than the driver may ask, as at a real agent.
_OPEN_TO_ALL = frozenset(("ping", "survives", "info", "mem_info", "disk_info", "load_info", "getpid"))


class Home(Protocol):
    """Where the machines are."""

    feed: EventFeed

    def add(self, spec: LaunchSpec) -> None: ...

    def end(self, machine: InprocessMachine, cause: Cause, detail: str, error: BaseException | None = None) -> None: ...


class Agent:
    """Starts machines and tells what happens to them."""

    def __init__(self, home: Home) -> None:
        self._home = home

    async def launch(self, spec: LaunchSpec) -> int:
        self._home.add(spec)
        return os.getpid()

    async def events(self, cursor: int = 0) -> AsyncGenerator[Event, None]:
        async for event in self._home.feed.read(cursor):
            yield event

    async def ack(self, cursor: int) -> None:
        self._home.feed.acknowledge(cursor)


class Supervisor:
    """Answers for one machine; what would change this process is refused."""

    def __init__(self, home: Home, machine: InprocessMachine) -> None:
        self._home = home
        self._machine = machine

    async def ping(self, data: object = None) -> object:
        return data

    async def survives(self) -> bool:
        return True

    async def info(self) -> MachineInfo:
        return MachineInfo(
            hostname=socket.gethostname(),
            platform=f"{sys.platform}-{platform.machine()}",
            python=platform.python_version(),
            maxprocs=self._machine.spec.maxprocs,
            pid=os.getpid(),
            entry="a machine inside the driver's process",
        )

    async def keepalive(self, lease_s: float) -> KeepaliveReply:
        self._machine.renew(lease_s)
        return KeepaliveReply(next_s=lease_s, healthy=True)

    async def getpid(self) -> int:
        return os.getpid()

    async def mem_info(self) -> MemInfo:
        return mem_info()

    async def disk_info(self) -> DiskInfo:
        return disk_info()

    async def load_info(self) -> LoadInfo:
        return load_info()

    async def shutdown(self, grace_s: float = 0.0) -> None:
        self._home.end(self._machine, Cause.SHUTDOWN, "it was asked to end")

    async def get_image(self) -> object:
        return self._machine.spec.entry

    async def set_args(self, args: object) -> None:
        _refuse("its arguments")

    async def set_env(self, environ: object) -> None:
        _refuse("its environment")

    async def set_image(self, entry: object) -> None:
        _refuse("its program")

    async def exec(self) -> None:
        _refuse("a program of its own")

    async def host_vars(self) -> dict[str, Reading]:
        from bigmachine.observe.facts import of_host

        return of_host(os.getpid())

    async def cpu_profile(self, seconds: float = 0.0, **options: object) -> bytes:
        _refuse("a profile of its own: profile the driver")

    async def profile(self, name: str) -> bytes:
        _refuse("a profile of its own: profile the driver")

    async def profiles(self) -> list[str]:
        return []


def _refuse(what: str) -> NoReturn:
    raise InvalidCall(f"a machine inside the driver's process does not have {what}")


class Gone:
    """Answers for a machine that has ended."""

    def __init__(self, certificate: DeathCertificate) -> None:
        self._certificate = certificate

    async def ping(self, data: object = None) -> object:
        raise MachineStopped(self._certificate)

    async def shutdown(self, grace_s: float = 0.0) -> None:
        """It has ended already."""

    survives = info = keepalive = getpid = mem_info = disk_info = load_info = ping


def authorize(peer: Peer, method: str) -> None:
    """Let the driver do everything, and machines look.

    Raises: AuthenticationError.
    """
    service, _, name = method.rpartition(".")
    if peer.role is Role.DRIVER or (service.startswith("Supervisor@") and name in _OPEN_TO_ALL):
        return
    raise AuthenticationError(f"{peer} may not call {method}: only the driver of the session may")
