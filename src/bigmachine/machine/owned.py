"""The life of a machine that this process owns: boot, keepalive, end.

Boot: launch at the agent, then at once dial the program (the connection waits in the agent's hands until the program
serves), register each service, and the machine is RUNNING. Leases are renewed from the launch on, so an `init` may
take as long as it likes. Whatever fails first stops the machine with that cause. A program that is started anew
(`Supervisor.exec`) gets its services again, while the machine stays RUNNING.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from bigmachine.agent import Dumped, Halted, KeepaliveReply, LaunchSpec, MachineInfo, MemoryShort, Noticed
from bigmachine.errors import (
    BigmachineError,
    Cause,
    DeadlineExceeded,
    DeathCertificate,
    MachineStopped,
    NetworkError,
    is_remote,
)
from bigmachine.machine.handle import Machine
from bigmachine.machine.host import Host
from bigmachine.machine.life import Phase, State
from bigmachine.rpc import Link
from bigmachine.system import Keepalive

_log = logging.getLogger("bigmachine")
#: How long a lost connection may mean that the machine died: its certificate comes with the agent's next event.
_VERDICT = 1.0
#: An end that does not arrive within this, after the agent was told to make it, is reported as the agent's loss.
_GRACE = 5.0
#: A machine that is still starting is spoken of so often.
_STARTING_NOTE = 30.0
#: A provider may take so long to say what became of a host.
_FATE = 10.0
#: So often it is asked for, and the host listened for, while the program is on its way there.
_LOOK_OUT = 3.0
#: A link that waits for something is pinged every other second; less than this says nothing about the host.
_MUTE = 6.0
#: An agent answers to a launch once the process is there: that takes milliseconds, on a crowded host some seconds.
_LAUNCH = 60.0
#: What the driver may find out before the agent does: that is told to end the machine.
_NOT_BY_THE_AGENT = (Cause.KEEPALIVE_LOST, Cause.LEASE_EXPIRED, Cause.BOOT_FAILED, Cause.INIT_FAILED)
#: So often a connection may break, or a program not answer one, while a service is installed.
_ATTEMPTS = 4
_AGAIN = 0.1
#: However late it is, an answer to a keepalive is waited for so long.
_LEAST_PATIENCE = 0.5
#: What has come while this process stood still is read within this.
_READING = 0.1


class Listener(Protocol):
    """What a session does about a machine's output and end."""

    def wrote(self, machine: Machine, stream: str, data: bytes) -> None: ...

    def phase(self, machine: Machine, phase: Phase) -> None: ...

    def short_of_memory(self, machine: Machine, event: MemoryShort) -> None: ...

    def dumped(self, machine: Machine, event: Dumped) -> None: ...

    def noticed(self, machine: Machine, event: Noticed) -> None: ...

    def halted(self, machine: Machine, event: Halted) -> None: ...

    def stopped(self, machine: Machine) -> None: ...

    def shown(self, timeout: float) -> None: ...


#: Brings the program to a machine's host, and says for there what is said in a LaunchSpec for here.
Settle = Callable[[LaunchSpec, Callable[[Phase], None]], Awaitable[LaunchSpec]]
#: Asks the provider why a machine's host is gone, if it is; see `System.fate`.
Fate = Callable[[bool], Awaitable[tuple[Cause, str] | None]]


class Owner:
    """Drives one owned machine; all of it on the reactor's thread but for `begin`, `cancel` and `shutdown`."""

    is_owner = True

    def __init__(
        self,
        machine: Machine,
        host: Host,
        program: Link,
        spec: LaunchSpec,
        services: Mapping[str, object],
        keepalive: Keepalive,
        listener: Listener,
        settle: Settle | None = None,
        fate: Fate | None = None,
    ) -> None:
        self.machine = machine
        self._fate = fate
        self._asking: asyncio.Task[object] | None = None
        self._settle = settle
        self._host = host
        self._program = program
        self._spec = spec
        self._services = services
        self._keepalive = keepalive
        self._listener = listener
        self._tasks: list[asyncio.Task[object]] = []
        self._has_begun = False
        self._has_launched = asyncio.Event()  # or failed to
        self._has_ended = asyncio.Event()
        self._init_error: BaseException | None = None
        self._keys = {name: os.urandom(16) for name in services}
        self._last = list(services)[-1] if services else ""
        self._is_installing = False
        self._processes = 0
        machine.keep(self)

    def begin(self) -> None:
        """Start it, unless it has been stopped already; from any thread."""
        if self.machine.enter(State.STARTING):
            self._program.reactor.post(self._begin)

    def _begin(self) -> None:
        if self.machine.state is State.STOPPED:
            return
        self._has_begun = True
        self._host.admit(self._spec.machine_id, self)
        self._tasks.append(self._program.reactor.spawn(self._boot(), f"boot {self.machine.name}"))

    # boot

    async def _boot(self) -> None:
        try:
            spawn = self._program.reactor.spawn
            self._tasks.append(spawn(self._watch_start(), f"start of {self.machine.name}"))
            await self._launch()
            self._tasks.append(spawn(self._keep_alive(), f"keepalive {self.machine.name}"))
            if self._keepalive.max_life is not None:
                self._tasks.append(spawn(self._age(self._keepalive.max_life), f"age of {self.machine.name}"))
            await self._install()
            await self._compare()
        except MachineStopped as exc:
            if exc.certificate.cause == Cause.AGENT_LOST or isinstance(exc.__cause__, NetworkError):
                self._lost(exc)
            else:
                self._end(exc)
        else:
            if self.machine.enter(State.RUNNING):
                self._program.release()

    async def _watch_start(self) -> None:
        """Say now and then that a machine is still starting: an import or an `init` may take for ever."""
        began = time.monotonic()
        while self.machine.state is State.STARTING:
            await asyncio.sleep(_STARTING_NOTE)
            if self.machine.state is State.STARTING:
                took = time.monotonic() - began
                _log.warning(
                    "machine %s (%s) has been starting for %.0f s: it is %s",
                    self.machine.name,
                    self.machine.address,
                    took,
                    self.machine.phase.value,
                )

    def _reach(self, phase: Phase) -> None:
        self.machine.reach(phase)
        self._listener.phase(self.machine, phase)

    async def _launch(self) -> None:
        self._reach(Phase.REACHING)
        looking = self._program.reactor.spawn(self._look_out(), f"host of {self.machine.name}")
        try:
            await self._bring_and_launch()
        finally:
            looking.cancel()
        self._reach(Phase.EXECUTING)
        self.machine.launched()

    async def _look_out(self) -> None:
        """Watch the host while the program travels: keepalives begin only after that."""
        if self._fate is None and self._settle is None:
            return
        link, patience = self._host.link, max(_MUTE, self._keepalive.timeout)
        heard, silent = link.bytes_heard(), 0.0
        while True:
            await asyncio.sleep(_LOOK_OUT)
            if self._fate is not None:
                self._inquire()
            before, heard = heard, link.bytes_heard()
            # In looks, and not by the clock: whatever came while this process stood still is read first.
            silent = silent + _LOOK_OUT if heard == before and link.is_waiting() else 0.0
            if self._settle is not None and silent >= patience:
                text = f"nothing was heard of {link.name} for {silent:.0f} s, in the phase {self.machine.phase.value}"
                self._end(MachineStopped(self._certificate(Cause.KEEPALIVE_LOST, text)))
                return

    async def _bring_and_launch(self) -> None:
        try:
            if self._settle is not None:
                self._spec = await self._settle(self._spec, self._reach)
        except Exception as exc:
            self._has_launched.set()
            raise self._boot_failed(f"the program could not be brought to {self._host.link.name}", exc) from exc
        try:
            async with self._host.launching:
                await self._host.link.submit("Agent.launch", (self._spec,), {}, _LAUNCH)
        except Exception as exc:
            raise self._boot_failed("its agent could not launch it", exc) from exc
        finally:
            self._has_launched.set()

    async def _install(self) -> None:
        """Bring the services to the program; all of them again, if another process takes its place meanwhile.

        With a key a call may be sent again, and still runs once in a process: an init may take an hour.
        """
        self._is_installing = True
        failures: Counter[str] = Counter()
        try:
            while True:
                restarts, name = self._restarts, ""
                try:
                    for name in self._services:
                        await self._register(name, is_last=name == self._last)
                except BigmachineError as exc:
                    if isinstance(exc, MachineStopped) or not exc.temporary:
                        raise
                    failures[name] += restarts == self._restarts
                    if failures[name] == _ATTEMPTS:
                        raise self._boot_failed(f"service {name!r} could not be registered", exc) from exc
                    # The agent may be about to say that the program was started anew.
                    await asyncio.sleep(_AGAIN * failures[name])
                else:
                    if restarts == self._restarts:
                        return
        finally:
            self._is_installing = False

    async def _register(self, name: str, is_last: bool) -> None:
        try:
            args = (name, self._services[name], is_last)
            await self._program.submit("Supervisor.register", args, {}, is_urgent=True, key=self._keys[name])
        except Exception as exc:
            if is_remote(exc):
                raise await self._init_failed(name, exc) from exc
            if isinstance(exc, BigmachineError) and (exc.temporary or isinstance(exc, MachineStopped)):
                raise
            raise self._boot_failed(f"service {name!r} could not be registered", exc) from exc

    async def _install_again(self) -> None:
        try:
            await self._install()
        except MachineStopped as exc:
            self._end(exc)

    async def _compare(self) -> None:
        """See that the machine runs the program that was brought there, and no other."""
        if not self._spec.digest:
            return
        method = f"Supervisor@{self._spec.machine_id}.info"
        try:
            info: MachineInfo = await self._host.link.submit(method, (), {}, _LAUNCH)
        except MachineStopped:
            raise
        except Exception as exc:
            raise self._boot_failed("what it runs could not be found out", exc) from exc
        if info.digest != self._spec.digest:
            text = f"it runs the image {info.digest[:12]}, and was to run {self._spec.digest[:12]}"
            raise MachineStopped(self._certificate(Cause.BOOT_FAILED, text))

    def _boot_failed(self, what: str, exc: BaseException) -> MachineStopped:
        if isinstance(exc, MachineStopped) and exc.certificate.cause == Cause.AGENT_LOST:
            return exc
        return MachineStopped(self._certificate(Cause.BOOT_FAILED, f"{what}: {type(exc).__name__}: {exc}"))

    async def _init_failed(self, name: str, exc: BaseException) -> MachineStopped:
        self._init_error = exc
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_VERDICT):  # the agent's certificate is better: it has the last lines of output
                await self._has_ended.wait()
        text = f"init of service {name!r} raised {type(exc).__name__}: {exc}"
        return MachineStopped(self._certificate(Cause.INIT_FAILED, text))

    def _certificate(self, cause: str, detail: str) -> DeathCertificate:
        return DeathCertificate(cause, self.machine.name, detail, stopped=time.time())

    # keepalive

    async def _keep_alive(self) -> None:
        clocks = self._keepalive
        method = f"Supervisor@{self._spec.machine_id}.keepalive"
        link = self._host.link
        answered = time.monotonic()
        while self.machine.state is not State.STOPPED:
            sent = time.monotonic()
            # Not given up sooner: on a crowded host each answer may be late, and a call that is given up never has one.
            patience = max(_LEAST_PATIENCE, answered + clocks.timeout - sent)
            late = link.reactor.loop.call_later(min(clocks.interval, clocks.timeout / 3), self._inquire)
            try:
                reply: KeepaliveReply = await link.submit(method, (clocks.lease,), {}, patience)
            except MachineStopped as exc:
                self._end(exc)
                return
            except BigmachineError as exc:
                if isinstance(exc, DeadlineExceeded):
                    # Its agent may be heard, and be behind with its answers; or this loop with reading them.
                    heard = link.bytes_heard()
                    await asyncio.sleep(_READING)
                    answered = max(answered, link.heard_at if link.bytes_heard() == heard else time.monotonic())
                silent = time.monotonic() - answered
                _log.debug("keepalive of %s failed for %.1f s: %s", self.machine.name, silent, exc)
                self._inquire()
                if silent >= clocks.timeout:
                    text = f"no keepalive was answered for {silent:.1f} s: {exc}"
                    self._end(MachineStopped(self._certificate(Cause.KEEPALIVE_LOST, text)))
                    return
                if not isinstance(exc, DeadlineExceeded):
                    await asyncio.sleep(min(0.5, clocks.interval))
            else:
                answered = time.monotonic()
                self.machine.kept_alive(answered - sent, reply.next_s)
                self._host.note_health(reply.healthy)
                await asyncio.sleep(clocks.interval)
            finally:
                late.cancel()

    def _inquire(self, lost: MachineStopped | None = None) -> None:
        """Ask the provider what has become of the host, unless that is being done; `lost`: its agent is gone."""
        if self._fate is None or (self._asking is not None and not self._asking.done() and lost is None):
            return
        self._asking = self._program.reactor.spawn(self._learn(self._fate, lost), f"fate of {self.machine.name}")
        self._tasks.append(self._asking)

    async def _learn(self, fate: Fate, lost: MachineStopped | None) -> None:
        told: tuple[Cause, str] | None = None
        try:
            async with asyncio.timeout(_FATE):
                told = await fate(lost is not None)
        except Exception as exc:  # noqa: BLE001 (the System may be anybody's)
            _log.debug("what became of the host of %s could not be found out: %s", self.machine.name, exc)
        if told is not None:
            self._end(MachineStopped(self._certificate(*told)))
        elif lost is not None:
            self._end(lost)

    async def _age(self, limit: float) -> None:
        await asyncio.sleep(limit)
        self._end(MachineStopped(self._certificate(Cause.LEASE_EXPIRED, f"it reached its maximum life, {limit:g} s")))

    # what the agent says

    def wrote(self, stream: str, data: bytes) -> None:
        self._listener.wrote(self.machine, stream, data)

    @property
    def _restarts(self) -> int:
        return max(0, self._processes - 1)

    def reached(self, phase: Phase) -> None:
        if phase is Phase.EXECUTING:
            self._processes += 1
            if self._restarts and not self._is_installing and self.machine.state is State.RUNNING:
                self._tasks.append(self._program.reactor.spawn(self._install_again(), f"exec {self.machine.name}"))
        self.machine.reach(phase)
        self._listener.phase(self.machine, phase)

    def short_of_memory(self, event: MemoryShort) -> None:
        self._listener.short_of_memory(self.machine, event)

    def dumped(self, event: Dumped) -> None:
        self._listener.dumped(self.machine, event)

    def noticed(self, event: Noticed) -> None:
        self.machine.preempted_at = event.notice.end
        self._listener.noticed(self.machine, event)

    def halted(self, event: Halted) -> None:
        self._listener.halted(self.machine, event)

    def died(self, error: MachineStopped) -> None:
        certificate = dataclasses.replace(error.certificate, machine=self.machine.name)
        if certificate.cause == Cause.AGENT_LOST and self.machine.state is State.STARTING:
            detail = f"{certificate.detail}, in the phase {self.machine.phase.value}"
            certificate = dataclasses.replace(certificate, detail=detail)
        named = MachineStopped(certificate)
        named.__cause__ = error.__cause__
        if self._init_error is not None and certificate.cause == Cause.INIT_FAILED:
            named.__cause__ = self._init_error  # the exception itself, where the agent may only have its text
        if certificate.cause == Cause.AGENT_LOST:
            self._lost(named)
        else:
            self._end(named)

    def _lost(self, error: MachineStopped) -> None:
        """End the machine because its host cannot be reached; by the true cause, if its provider has told or tells."""
        if self.machine.preempted_at is not None:
            self._end(MachineStopped(self._certificate(Cause.PREEMPTED, "its provider had given notice")))
        elif self._fate is not None:
            self._inquire(error)
        else:
            self._end(error)

    async def verdict(self, cause: BigmachineError) -> BaseException:
        """Say what a lost connection to the program means: the agent knows whether the program lives."""
        try:
            async with asyncio.timeout(_VERDICT):
                if self.machine.state is not State.STOPPED:
                    await self._host.link.submit(f"Supervisor@{self._spec.machine_id}.survives", (), {}, _VERDICT)
                    return cause
        except (BigmachineError, TimeoutError) as exc:
            _log.debug("whether %s lives is told by its end, if it comes: %s", self.machine.name, exc)
        try:
            async with asyncio.timeout(_VERDICT):
                await self._has_ended.wait()  # the events bring the certificate, after the last output
        except TimeoutError:
            return cause
        return self.machine.error or cause

    # its end

    def _end(self, error: MachineStopped) -> None:
        if not self.machine.stop(error):
            self._finish()
            return
        self._finish()
        self._listener.stopped(self.machine)
        if error.certificate.cause in _NOT_BY_THE_AGENT:
            self._tell_agent(0.0)

    def _finish(self) -> None:
        self._has_ended.set()
        self._host.dismiss(self._spec.machine_id)
        for task in self._tasks:
            if task is not asyncio.current_task(self._program.reactor.loop):
                task.cancel()

    def _tell_agent(self, grace: float) -> None:
        call = self._host.link.submit(f"Supervisor@{self._spec.machine_id}.shutdown", (grace,), {}, _GRACE)
        call.add_done_callback(_log_failure)

    def cancel(self) -> None:
        """Clean up after the handle was stopped; from any thread."""
        try:
            self._program.reactor.post(self._cancelled)
        except RuntimeError:
            self._listener.stopped(self.machine)  # the loop has ended, and the agent with it

    def _cancelled(self) -> None:
        self._finish()
        self._listener.stopped(self.machine)
        self._tell_agent(0.0)

    def shutdown(self, timeout: float) -> None:
        """End the machine and wait for its last output; from another thread."""
        end = time.monotonic() + timeout
        self._program.reactor.run(self.end(end), timeout + _GRACE)
        self._listener.shown(max(0.0, end - time.monotonic()))

    async def end(self, end: float) -> None:
        """End the machine by the instant `end` of `time.monotonic`; on the reactor's thread."""
        if not self._has_begun:
            self._end(MachineStopped(self._certificate(Cause.SHUTDOWN, "it was shut down before it was started")))
        if self.machine.state is State.STOPPED:
            return
        left = max(0.1, end - time.monotonic())
        try:
            async with asyncio.timeout(left):
                await self._has_launched.wait()  # before that the agent does not know it
            await self._host.link.submit(f"Supervisor@{self._spec.machine_id}.shutdown", (left / 2,), {}, left)
            async with asyncio.timeout(left):
                await self._has_ended.wait()
        except (BigmachineError, TimeoutError) as exc:
            text = f"it was asked to end and did not answer within {left:.1f} s ({type(exc).__name__}: {exc})"
            self._end(MachineStopped(self._certificate(Cause.AGENT_LOST, text)))


def _log_failure(call: object) -> None:
    exc = call.exception()  # type: ignore[attr-defined]  # a Call that is done
    if exc is not None:
        _log.debug("an agent could not be told to end a machine: %s", exc)
