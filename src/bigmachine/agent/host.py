"""The agent's state and what it decides: the machines on this host, their clocks, and when the agent itself ends.

Everything here runs on the agent's one event loop. The services (`service`, `supervisor`) are thin faces of it, the
front door (`tcp`) asks it where a connection goes. The agent ends when the driver says so, when it has been abandoned
(`lease`), or when the tether breaks; the last does not come by here, because it must work while this loop is busy.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Final

from bigmachine.agent.feed import Feed
from bigmachine.agent.hosted import Hosted
from bigmachine.agent.lease import Leases
from bigmachine.agent.processes.tree import memory_in_use
from bigmachine.agent.shortage import dump
from bigmachine.agent.watch import pyspy
from bigmachine.agent.watch.memory import Alarms, Looker, period
from bigmachine.agent.watch.oom import OomWatch
from bigmachine.errors import AuthenticationError, Cause, InvalidCall, MachineStopped, ProvisionError
from bigmachine.trust import Peer, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from bigmachine.agent.bootstrap import Clocks
    from bigmachine.agent.events import Notice
    from bigmachine.agent.launch import LaunchSpec
    from bigmachine.agent.processes.children import Nursery
    from bigmachine.agent.processes.control_groups import ControlGroups
    from bigmachine.agent.processes.reaper import Reaper
    from bigmachine.agent.processes.scratch import Scratch
    from bigmachine.agent.watch.memory import Use

_log = logging.getLogger("bigmachine.agent")

#: What others than the driver may ask an agent.
_OPEN_TO_ALL: Final = frozenset({"ping", "survives", "info", "mem_info", "disk_info", "load_info", "getpid"})
#: How long `end` waits for the driver to acknowledge the last events.
_FAREWELL: Final = 2.0
#: Seconds by which two clocks differ that are not read at the same instant, and by which what is due may be late.
_NAP: Final = 0.5


class Host:
    """The machines on this host."""

    def __init__(
        self,
        clocks: Clocks,
        *,
        loop: asyncio.AbstractEventLoop,
        nursery: Nursery,
        reaper: Reaper,
        feed: Feed,
        scratch: Scratch,
        groups: ControlGroups | None = None,
    ) -> None:
        self.on_tick: Callable[[], None] | None = None
        self.feed = feed
        self.leases = Leases(lease=clocks.lease, first_contact=clocks.first_contact, now=loop.time())
        self.over = asyncio.Event()
        self._clocks = clocks
        self._loop = loop
        self._nursery = nursery
        self._reaper = reaper
        self._scratch = scratch
        self._groups = groups
        self._oom = OomWatch(now=loop.time())
        self._asleep = asleep()
        self._machines: dict[str, Hosted] = {}
        self._condemned: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._memory = 0.0
        self._memory_due = 0.0
        self._notice: Notice | None = None
        self._is_ending = False
        #: Counts the bytes that have come from the driver.
        self.heard: Callable[[], int] = lambda: 0
        self._heard = 0
        feed.on_full = self._pause
        feed.on_room = self._resume

    # who may

    def authorize(self, peer: Peer, method: str) -> None:
        """Let the driver do everything, machines and clients look, and nobody else anything.

        Raises:
            AuthenticationError: if this peer may not call this method.
        """
        if peer.role is Role.DRIVER:
            self.leases.contact(self._loop.time())
            return
        service, _, name = method.rpartition(".")
        if peer.role in (Role.MACHINE, Role.CLIENT) and service.startswith("Supervisor@") and name in _OPEN_TO_ALL:
            return
        if peer.role is Role.AGENT and service == "Images":  # they pass the program on to one another
            return
        raise AuthenticationError(f"{peer} may not call {method}: only the driver of the session may")

    # machines

    async def launch(self, spec: LaunchSpec) -> Hosted:
        """Start a machine.

        Raises:
            InvalidCall: if there is one of this id.
            ProvisionError: if the host cannot, or is ending.
        """
        if self._is_ending:
            raise ProvisionError(f"machine {spec.name} cannot start: its agent is ending; start it on another host")
        if spec.machine_id in self._machines:
            raise InvalidCall(f"machine {spec.machine_id} exists already: give every machine of a session its own id")
        machine = Hosted(
            spec.at_home(os.environ),
            loop=self._loop,
            nursery=self._nursery,
            reaper=self._reaper,
            feed=self.feed,
            hang=self._clocks.hang,
            scratch=self._scratch,
            groups=self._groups,
            oom=self._oom,
        )
        self._machines[spec.machine_id] = machine
        try:
            await machine.start()
        except BaseException as error:
            del self._machines[spec.machine_id]
            machine.abandon(error)
            raise
        self.leases.open(spec.machine_id, self._loop.time())
        self._keep(self._follow(machine), f"follow {machine.id}")
        if self._notice is not None:
            self.feed.noticed(machine.id, self._notice)
        return machine

    async def _follow(self, machine: Hosted) -> None:
        try:
            await machine.follow()
        finally:
            self.leases.close(machine.id)
            self._condemned.discard(machine.id)
            self._machines.pop(machine.id, None)

    def find(self, machine_id: str) -> Hosted | None:
        """Give a machine that is alive, or not quite dead yet."""
        return self._machines.get(machine_id)

    def pids(self) -> list[int]:
        """Give the pids of the machines' processes. May be called from any thread."""
        found = []
        for machine in list(self._machines.values()):
            try:
                found.append(machine.pid)
            except MachineStopped:
                continue
        return [pid for pid in found if pid]

    def now(self) -> float:
        """The time that the leases are told by."""
        return self._loop.time()

    def memory_in_use(self) -> float:
        """How much of the host's memory is in use, in percent; looked up once a minute, as in Go's watchdog."""
        now = self._loop.time()
        if now >= self._memory_due:
            self._memory_due = now + 60
            self._memory = memory_in_use()
        return self._memory

    def stop_soon(self, machine_id: str, grace: float, cause: Cause) -> None:
        """Begin to end a machine."""
        self._keep(self.stop(machine_id, grace, cause), f"stop {machine_id}")

    def _keep(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self, machine_id: str, grace: float, cause: Cause = Cause.SHUTDOWN) -> None:
        """End a machine and wait until it is gone; harmless for one that is gone already."""
        machine = self._machines.get(machine_id)
        if machine is not None:
            await machine.stop(cause, grace)

    def lose_image(self, root: str, why: str) -> None:
        """End the machines that run in an image of which something is missing, for good."""
        for machine in self._machines.values():
            if machine.spec.root == root:
                machine.kill(Cause.BOOT_FAILED, why)

    async def end(self, grace: float) -> None:
        """End all machines, let the driver take note, and let the agent end."""
        self._is_ending = True
        await asyncio.gather(*(machine.stop(Cause.SHUTDOWN, grace) for machine in list(self._machines.values())))
        self._keep(self._say_farewell(), "farewell").add_done_callback(lambda _: self.over.set())

    async def _say_farewell(self) -> None:
        await self.feed.settle(_FAREWELL)
        # The answer to the call that acknowledged the last event is to be written, too.
        await asyncio.sleep(0.01)

    def notice(self, notice: Notice) -> None:
        """The provider will take this host back: tell the driver, and have the machines' services finish their work."""
        self._notice = notice
        for machine in self._machines.values():
            self.feed.noticed(machine.id, notice)
            machine.drain()

    def _pause(self) -> None:
        for machine in self._machines.values():
            machine.pause()

    def _resume(self) -> None:
        for machine in self._machines.values():
            machine.resume()

    # clocks

    async def watch(self) -> None:
        """Keep the clocks until the agent's end."""
        period = min(1.0, max(0.02, min(self._clocks.lease, self._clocks.hang, self._clocks.first_contact) / 10))
        due = self._loop.time()
        while not self.over.is_set():
            now = self._loop.time()
            if now - due > _NAP:
                self.leases.late(now - due)
            self._tick(now)
            due = now + period
            await asyncio.sleep(period)

    def _tick(self, now: float) -> None:
        if self.on_tick is not None:
            self.on_tick()
        so_far = asleep()
        slept, self._asleep = so_far - self._asleep, so_far
        if slept > _NAP:
            self.leases.awake(now, slept)
        if (heard := self.heard()) != self._heard:
            self._heard = heard
            self.leases.hear(now)
        self._oom.glance(self.pids(), now)
        for machine_id in self.leases.expire(now):
            if (machine := self._machines.get(machine_id)) is not None:
                machine.kill(Cause.LEASE_EXPIRED, "no keepalive came from the driver within the lease")
        for machine in list(self._machines.values()):
            if machine.id not in self._condemned and machine.examine(now):
                self._condemned.add(machine.id)
                self._keep(self._end_hung(machine, machine.pid), f"hung {machine.id}")
        if self.leases.is_abandoned(now, is_listening=self.feed.is_listening, is_empty=not self._machines):
            _log.info("nobody needs this agent any more: it ends")
            self.over.set()

    async def watch_memory(self) -> None:
        """Tell the driver when memory is nearly used up, with what the machine that uses the most of it holds."""
        looker = Looker(self._groups.directory if self._groups is not None else "")
        alarms = Alarms()
        before: list[Use] = []
        since = self._loop.time()
        while not self.over.is_set():
            uses = looker.look({each.id: each.pid for each in self._machines.values() if each.is_serving})
            for shortage in alarms.judge(uses):
                machine = self._machines[shortage.machine]
                self.feed.memory_short(shortage)
                self._keep(dump(machine, shortage, self._reaper, self.feed), f"dump {machine.id}")
            now = self._loop.time()
            wait = period(uses, before, now - since)
            before, since = uses, now
            await asyncio.sleep(wait)

    async def _end_hung(self, machine: Hosted, pid: int) -> None:
        """Kill a machine that is hung, but keep what it was doing."""
        if machine.may_be_excused(self._loop.time()) and await pyspy.holds_interpreter(self._reaper, pid):
            machine.excuse(self._loop.time())
            self._condemned.discard(machine.id)
            return
        stacks = await pyspy.dump_hung(self._reaper, pid)
        if machine.examine(self._loop.time()):
            machine.kill(Cause.HUNG, machine.stillness(self._loop.time()), stacks)
        else:  # it has come back to life meanwhile
            self._condemned.discard(machine.id)


def asleep() -> float:
    """Give the seconds that this computer has been suspended since it was started; 0 where it does not count them."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


__all__ = ["Host", "asleep"]
