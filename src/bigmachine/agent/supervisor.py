"""The service "Supervisor@<machine id>": what can be asked about a machine, answered from outside of it.

It lives in the agent, so it answers while the machine's program is busy, stuck or not even up. After the machine's
end every method says why it ended (`MachineStopped`, with the certificate). The methods are those of the Go
original's supervisor.go; what depends on the program itself (register, its own variables) is in the program's own
service of the same name.
"""

from __future__ import annotations

import asyncio
import math
import socket
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from bigmachine.agent.conversing import Conversing
from bigmachine.agent.processes.tree import look_at
from bigmachine.agent.replies import KeepaliveReply, MachineInfo
from bigmachine.agent.watch import pyspy
from bigmachine.errors import BigmachineError, Cause, InvalidCall, MachineStopped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bigmachine.agent.host import Host
    from bigmachine.agent.hosted import Hosted
    from bigmachine.agent.processes.reaper import Reaper
    from bigmachine.image import Entry
    from bigmachine.observe import DiskInfo, LoadInfo, MemInfo
    from bigmachine.observe.vars import Reading

#: Go's limit: with more of the memory in use the machine is not healthy.
_CROWDED: Final = 95.0
#: Go's default, in seconds.
_PROFILE: Final = 30.0
#: A process that has begun to exit has closed its files, and is reported once its pipes are read: within half a second.
_LAST_BREATH: Final = 2.0
#: To read the limits of control groups is half of what a look at a machine costs, and they hardly ever change.
_LIMIT_HOLDS: Final = 10.0
_PROFILES: Final = ("threads", "threads.json")


class Glance(NamedTuple):
    """A machine at one moment: bytes that its process holds and may hold, processor seconds that it has used."""

    rss: int
    limit: int
    cpu_s: float


class Supervisor(Conversing):
    """Answers for one machine."""

    def __init__(self, machine: Hosted, host: Host, reaper: Reaper) -> None:
        self._machine = machine
        self._host = host
        self._reaper = reaper
        self._args: list[str] | None = None
        self._environ: dict[str, str] = {}
        self._entry: Entry | None = None
        self._sampling = asyncio.Lock()
        self._limit: int | None = None
        self._limit_until = 0.0

    # for everybody

    async def ping(self, data: object = None) -> object:
        """Give `data` back."""
        self._pid()
        return data

    async def survives(self) -> bool:
        """Tell that the process lives, or is being replaced; for one on its way out, its certificate is awaited.

        What a driver asks when its connection to the program ended: did the program end, or only the connection?

        Raises:
            MachineStopped: if it is gone.
        """
        seen = look_at(self._pid())
        if not self._machine.is_between and (seen is None or seen.is_ending):
            await self._machine.ended(_LAST_BREATH)
        self._pid()
        return True

    async def info(self) -> MachineInfo:
        """Tell what kind of machine this is."""
        import platform  # 1 ms that agents need only here

        return MachineInfo(
            hostname=socket.gethostname(),
            platform=f"{sys.platform}-{platform.machine()}",
            python=platform.python_version(),
            maxprocs=self._machine.spec.maxprocs,
            pid=self._pid(),
            entry=str(self._machine.spec.entry),
            digest=self._machine.spec.digest,
        )

    async def getpid(self) -> int:
        """Give the pid of the program's process."""
        return self._pid()

    def mem_info(self) -> MemInfo:
        """Tell the memory of the host, of its container, and of the machine."""
        from bigmachine.observe import mem_info

        return mem_info(self._pid())

    def disk_info(self) -> DiskInfo:
        """Tell about the disk that the machine works on."""
        from bigmachine.observe import disk_info

        self._pid()
        return disk_info(self._machine.spec.cwd)

    def load_info(self) -> LoadInfo:
        """Tell the load of the host."""
        from bigmachine.observe import load_info

        self._pid()
        return load_info()

    # for the driver

    async def keepalive(self, lease_s: float) -> KeepaliveReply:
        """Prolong the machine's lease to `lease_s` seconds from now.

        Raises:
            MachineStopped: if it is gone.
            InvalidCall: if it is about to be, because its lease ran out; or if that is no time.
        """
        self._pid()
        _check_seconds("keepalive", lease_s)
        try:
            granted = self._host.leases.renew(self._machine.id, self._host.now(), lease_s)
        except KeyError as error:
            raise InvalidCall(f"the lease of machine {self._machine.id} ran out; it is being stopped") from error
        return KeepaliveReply(granted, healthy=self._host.memory_in_use() < _CROWDED)

    async def set_args(self, args: Sequence[str]) -> None:
        """Set the arguments that the program gets at the next `exec` (Go: Setargs).

        Raises:
            InvalidCall: if they are not strings.
        """
        given: object = args
        if not isinstance(given, list | tuple) or not all(isinstance(arg, str) for arg in given):
            raise InvalidCall(f"set_args takes a list of strings such as ['-n', '3'], not {args!r}")
        self._args = list(args)

    async def set_env(self, environ: Mapping[str, str]) -> None:
        """Add to the environment of the next `exec`; what is set later wins (Go: Setenv).

        Raises:
            InvalidCall: if that is no mapping from strings to strings.
        """
        given: object = environ
        if not isinstance(given, dict) or not all(isinstance(text, str) for pair in given.items() for text in pair):
            raise InvalidCall(f"set_env takes a dict from names to strings, not {environ!r}")
        self._environ.update(environ)

    async def set_image(self, entry: Entry) -> None:
        """Set what the machine runs after the next `exec` (Go: Setbinary).

        Raises:
            InvalidCall: if that is no `Entry`, as `Image(...).entry()` gives it.
        """
        from bigmachine.image import Entry

        given: object = entry
        if not isinstance(given, Entry):
            raise InvalidCall(f"set_image takes what bigmachine.Image(...).entry() returns, not {entry!r}")
        self._entry = entry

    async def get_image(self) -> Entry:
        """Give what was set, or what the machine runs (Go: GetBinary)."""
        return self._entry or self._machine.spec.entry

    async def exec(self) -> None:
        """Start the program anew with what was set, in a new process under the same identity (Go: Exec).

        Returns once the new process is there. Calls that were under way are lost (`NetworkError`); the driver brings
        the services again, and calls that come meanwhile wait for them.

        Raises:
            MachineStopped: if it could not be started again.
        """
        self._pid()
        spec = self._machine.spec
        argv, entry = spec.argv, self._entry or spec.entry
        if self._args is not None:
            argv, entry = [*argv[:1], *self._args], replace(entry, arguments=None)
        await self._machine.restart(replace(spec, argv=argv, environ={**spec.environ, **self._environ}, entry=entry))
        self._pid()

    async def shutdown(self, grace_s: float = 1.0) -> None:
        """End the machine; answers at once, as the machine may be the one who asks (Go: Shutdown)."""
        self._host.stop_soon(self._machine.id, grace_s, Cause.SHUTDOWN)

    async def cpu_profile(
        self,
        seconds: float = _PROFILE,
        *,
        hertz: int = 100,
        native: bool = False,
        gil: bool = False,
        idle: bool = False,
        nonblocking: bool | None = None,
    ) -> bytes:
        """Sample the program for `seconds`: folded stacks as text; see `pyspy.Sampling` for the options.

        Unless somebody wants it (`nonblocking=False`, or `native`, which needs it), the process is not stopped for its
        samples: see `pyspy`. Several may sample at once, but only one of them can stop the process; others wait.

        Raises:
            InvalidCall: if that is no time, or no rate.
            TraceRefused: if this host does not allow it.
        """
        _check_seconds("cpu_profile", seconds)
        if type(hertz) is not int or not 1 <= hertz <= pyspy.FASTEST:
            raise InvalidCall(f"cpu_profile takes a rate (hertz) from 1 to {pyspy.FASTEST}, not {hertz!r}")
        if native and nonblocking:
            raise InvalidCall("frames in C (native) can only be had from a process that is stopped, not nonblocking")
        if native or nonblocking is False:
            async with self._sampling:
                return await self._sampled(seconds, pyspy.Sampling(hertz, native, gil, idle, nonblocking=False))
        return await self._sampled(seconds, pyspy.Sampling(hertz, native, gil, idle))

    async def _sampled(self, seconds: float, sampling: pyspy.Sampling) -> bytes:
        pid = self._pid()
        try:
            folded = await pyspy.record(self._reaper, pid, seconds, sampling)
        except BigmachineError:
            await self._check_alive(pid)  # it may have been gone before py-spy had a look
            raise
        await self._check_alive(pid)  # py-spy is content with what it has seen until then
        return folded

    async def _check_alive(self, pid: int) -> None:
        seen = look_at(pid)
        if seen is None or seen.is_ending:
            await self._machine.ended(_LAST_BREATH)
            self._pid()

    async def profiles(self) -> list[str]:
        """Name the profiles that `profile` gives."""
        return list(_PROFILES)

    async def profile(self, name: str) -> bytes:
        """Give a profile: "threads" as text, "threads.json" as JSON, also of a program that stands still.

        Raises:
            InvalidCall: if there is none of this name.
        """
        if name == "threads.json":
            return await pyspy.dump_from_outside(self._reaper, self._pid())
        if name not in _PROFILES:
            raise InvalidCall(f"no such profile {name!r}: there is {', '.join(_PROFILES)}")
        return await pyspy.dump(self._reaper, self._pid())

    async def last_lines(self) -> list[str]:
        """Give the last lines that the machine wrote and logged."""
        return list(self._machine.last_lines())

    def host_vars(self) -> dict[str, Reading]:
        """Give the machine's numbers that are known from outside: of its host, its container, and its output."""
        from bigmachine.observe.facts import of_host
        from bigmachine.observe.vars import Reading

        told = of_host(self._pid())
        told["machine.output_bytes"] = Reading("counter", self._machine.output_bytes, help="what it wrote and logged")
        told["machine.log_records"] = Reading("counter", self._machine.log_records, help="records that it logged")
        told["machine.serving"] = Reading("gauge", int(self._machine.is_serving), help="1 while it serves")
        return told

    def glance(self) -> Glance:
        """Tell what a page shows that looks every second: of `host_vars` the least, and cheaply."""
        import psutil

        from bigmachine.observe.limits import memory_limit

        pid = self._pid()
        if (now := time.monotonic()) >= self._limit_until:
            found = memory_limit(f"/proc/{pid}")
            self._limit = None if found is None else found.limit
            self._limit_until = now + _LIMIT_HOLDS
        limit = self._limit
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                rss, times = process.memory_info().rss, process.cpu_times()
        except psutil.Error:  # it is ending, and will be reported
            rss, times = 0, None
        total = psutil.virtual_memory().total
        return Glance(
            rss=rss,
            limit=total if limit is None else min(total, limit),
            cpu_s=0.0 if times is None else times.user + times.system,
        )

    async def expvars(self) -> dict[str, object]:
        """Give what the agent counts about the machine; the program has its own."""
        spec = self._machine.spec
        return {
            "machine": spec.machine_id,
            "name": spec.name,
            "pid": self._pid(),
            "started": self._machine.started,
            "serving": self._machine.is_serving,
            "output_bytes": self._machine.output_bytes,
        }

    def _pid(self) -> int:
        if self._machine.certificate is not None:
            raise MachineStopped(self._machine.certificate)
        return self._machine.pid


def _check_seconds(method: str, seconds: object) -> None:
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds < math.inf:
        raise InvalidCall(f"{method} takes a number of seconds above 0, not {seconds!r}")


__all__ = ["Glance", "KeepaliveReply", "MachineInfo", "Supervisor"]
