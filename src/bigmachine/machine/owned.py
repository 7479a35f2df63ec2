"""The life of a machine that this process owns: boot, keepalive, end.

Boot: launch at the agent, then at once dial the program (the connection waits in the agent's hands until the program
serves), register each service, and the machine is RUNNING. Leases are renewed from the launch on, so an `init` may
take as long as it likes. Whatever fails first stops the machine with that cause.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import Protocol

from bigmachine.agent import LaunchSpec
from bigmachine.errors import (
    BigmachineError,
    Cause,
    DeadlineExceeded,
    DeathCertificate,
    MachineStopped,
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


class Listener(Protocol):
    """What a session does about a machine's output and end."""

    def wrote(self, machine: Machine, stream: str, data: bytes) -> None: ...

    def phase(self, machine: Machine, phase: Phase) -> None: ...

    def stopped(self, machine: Machine) -> None: ...


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
    ) -> None:
        self.machine = machine
        self._host = host
        self._program = program
        self._spec = spec
        self._services = services
        self._keepalive = keepalive
        self._listener = listener
        self._tasks: list[asyncio.Task[object]] = []
        self._ending: str = ""
        self._has_ended = asyncio.Event()
        machine.keep(self)

    def begin(self) -> None:
        """Start it; from any thread."""
        self.machine.enter(State.STARTING)
        self._program.reactor.post(self._begin)

    def _begin(self) -> None:
        reactor = self._program.reactor
        self._host.admit(self._spec.machine_id, self)
        self._tasks.append(reactor.spawn(self._boot(), f"boot {self.machine.name}"))

    # boot

    async def _boot(self) -> None:
        machine = self.machine
        try:
            machine.reach(Phase.REACHING)
            await self._host.link.submit("Agent.launch", (self._spec,), {}, 60.0)
            machine.reach(Phase.EXECUTING)
            self._tasks.append(self._program.reactor.spawn(self._keep_alive(), f"keepalive {machine.name}"))
            for name, service in self._services.items():
                call = self._program.submit("Supervisor.register", (name, service), {}, is_urgent=True)
                machine.reach(Phase.INITIALISING)
                try:
                    await call
                except MachineStopped:
                    raise
                except BigmachineError as exc:
                    raise self._boot_failed(f"service {name!r} could not be registered", exc) from exc
                except Exception as exc:
                    raise self._init_failed(name, exc) from exc
        except MachineStopped as exc:
            self._end(exc)
        except BigmachineError as exc:
            error = self._boot_failed(f"its agent could not launch it ({machine.phase.value})", exc)
            error.__cause__ = exc
            self._end(error)
        else:
            if machine.enter(State.RUNNING):
                self._program.release()

    def _boot_failed(self, what: str, exc: BaseException) -> MachineStopped:
        return MachineStopped(self._certificate(Cause.BOOT_FAILED, f"{what}: {type(exc).__name__}: {exc}"))

    def _init_failed(self, name: str, exc: BaseException) -> MachineStopped:
        text = f"init of service {name!r} raised {type(exc).__name__}: {exc}"
        return MachineStopped(self._certificate(Cause.INIT_FAILED, text))

    def _certificate(self, cause: str, detail: str) -> DeathCertificate:
        return DeathCertificate(cause, self.machine.name, detail, stopped=time.time())

    # keepalive

    async def _keep_alive(self) -> None:
        clocks = self._keepalive
        method = f"Supervisor@{self._spec.machine_id}.keepalive"
        answered = time.monotonic()
        patience = max(0.5, min(clocks.interval, clocks.timeout / 3))
        while self.machine.state is not State.STOPPED:
            sent = time.monotonic()
            try:
                await self._host.link.submit(method, (clocks.lease,), {}, patience)
            except MachineStopped as exc:
                self._end(exc)
                return
            except BigmachineError as exc:
                silent = time.monotonic() - answered
                _log.debug("keepalive of %s failed for %.1f s: %s", self.machine.name, silent, exc)
                if silent >= clocks.timeout:
                    text = f"no keepalive was answered for {silent:.1f} s: {exc}"
                    self._end(MachineStopped(self._certificate(Cause.KEEPALIVE_LOST, text)))
                    return
                if isinstance(exc, DeadlineExceeded):
                    self._host.link.renew()
                else:
                    await asyncio.sleep(min(0.5, clocks.interval))
            else:
                answered = time.monotonic()
                self.machine.kept_alive(answered - sent, clocks.lease)
                await asyncio.sleep(clocks.interval)

    # what the agent says

    def wrote(self, stream: str, data: bytes) -> None:
        self._listener.wrote(self.machine, stream, data)

    def reached(self, phase: Phase) -> None:
        self.machine.reach(phase)
        self._listener.phase(self.machine, phase)

    def died(self, error: MachineStopped) -> None:
        certificate = dataclasses.replace(error.certificate, machine=self.machine.name)
        named = MachineStopped(certificate)
        named.__cause__ = error.__cause__
        self._end(named)

    async def verdict(self, cause: BigmachineError) -> BaseException:
        """Say what a lost connection to the program means."""
        if self.machine.state is not State.STOPPED:
            try:
                async with asyncio.timeout(_VERDICT):
                    await self._has_ended.wait()
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
        if error.certificate.cause in (Cause.KEEPALIVE_LOST, Cause.BOOT_FAILED, Cause.INIT_FAILED):
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
        self._program.reactor.post(self._cancelled)

    def _cancelled(self) -> None:
        self._finish()
        self._listener.stopped(self.machine)
        self._tell_agent(0.0)

    def shutdown(self, timeout: float) -> None:
        """End the machine and wait for its last output; from another thread."""
        end = time.monotonic() + timeout
        self._program.reactor.run(self.end(end), timeout + _GRACE)

    async def end(self, end: float) -> None:
        """End the machine by the instant `end` of `time.monotonic`; on the reactor's thread."""
        left = max(0.1, end - time.monotonic())
        if self.machine.state is State.STOPPED:
            return
        try:
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
