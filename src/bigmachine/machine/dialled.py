"""The life of a handle on somebody else's machine: pinged, not kept alive [Go: B.Dial].

It is RUNNING once its agent has answered for it, and STOPPED once the agent says that the machine is gone, or has not
answered for as long as the clocks allow.
"""

from __future__ import annotations

import asyncio
import logging
import time

from bigmachine.errors import BigmachineError, Cause, DeathCertificate, MachineStopped
from bigmachine.machine.handle import Machine
from bigmachine.machine.life import State
from bigmachine.rpc import Link, PeerGone
from bigmachine.system import Keepalive

_log = logging.getLogger("bigmachine")
_VERDICT = 1.0


class Pinger:
    """Follows one dialled machine; on the reactor's thread but for `begin` and `cancel`."""

    is_owner = False

    def __init__(self, machine: Machine, program: Link, agent: Link, keepalive: Keepalive, machine_id: str) -> None:
        self.machine = machine
        self._program = program
        self._agent = agent
        self._clocks = keepalive
        self._ping = f"Supervisor@{machine_id}.ping"
        self._task: asyncio.Task[object] | None = None
        machine.keep(self)

    def begin(self) -> None:
        """Start following it; from any thread."""
        self.machine.enter(State.STARTING)
        self._program.reactor.post(self._begin)

    def _begin(self) -> None:
        self._task = self._program.reactor.spawn(self._follow(), f"ping {self.machine.name}")

    async def _follow(self) -> None:
        answered = time.monotonic()
        patience = max(0.5, self._clocks.timeout / 3)
        while self.machine.state is not State.STOPPED:
            sent = time.monotonic()
            try:
                await self._agent.submit(self._ping, (), {}, patience)
            except BigmachineError as exc:
                silent = time.monotonic() - answered
                if isinstance(exc, MachineStopped):
                    self._stop(exc)
                elif isinstance(exc, PeerGone) or not (exc.temporary or isinstance(exc, TimeoutError)):
                    self._stop(MachineStopped(self._certificate(Cause.AGENT_LOST, str(exc))))
                elif silent >= self._clocks.timeout:
                    self._stop(MachineStopped(self._certificate(Cause.KEEPALIVE_LOST, f"for {silent:.1f} s: {exc}")))
                else:
                    self._agent.renew()
                    await asyncio.sleep(min(0.5, self._clocks.interval))
            else:
                answered = time.monotonic()
                self.machine.kept_alive(answered - sent, self._clocks.timeout)
                if self.machine.state is State.STARTING:
                    self.machine.enter(State.RUNNING)
                await asyncio.sleep(self._clocks.interval)

    def _certificate(self, cause: str, detail: str) -> DeathCertificate:
        return DeathCertificate(cause, self.machine.name, detail, stopped=time.time())

    def _stop(self, error: MachineStopped) -> None:
        self.machine.stop(error)
        self._agent.close(error)

    async def verdict(self, cause: BigmachineError) -> BaseException:
        """Say what a lost connection to the program means: the agent knows whether it lives."""
        if self.machine.state is State.STOPPED:
            return self.machine.error or cause
        end = time.monotonic() + _VERDICT
        while (left := end - time.monotonic()) > 0:
            try:
                await self._agent.submit(self._ping, (), {}, left)
            except MachineStopped as exc:
                self._stop(exc)
                return exc
            except PeerGone as exc:
                error = MachineStopped(self._certificate(Cause.AGENT_LOST, str(exc)))
                self._stop(error)
                return error
            except BigmachineError as exc:
                _log.debug("asking after %s failed: %s", self.machine.name, exc)
            await asyncio.sleep(0.05)  # it may have died a moment ago, and its agent not know yet
        return cause

    def cancel(self) -> None:
        """Stop following; from any thread."""
        self._program.reactor.post(self._cancelled)

    def _cancelled(self) -> None:
        self.close(self.machine.error or MachineStopped(self._certificate(Cause.CANCELLED, "")))

    def close(self, error: BaseException) -> None:
        """Stop following; on the reactor's thread."""
        if self._task is not None:
            self._task.cancel()
        self._agent.close(error)

    def shutdown(self, timeout: float) -> None:
        """Nothing: only the owner ends a machine."""
