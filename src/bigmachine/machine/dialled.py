"""The life of a handle on somebody else's machine: pinged, not kept alive [Go: B.Dial].

It is RUNNING once its program says that it has the services that it was started with, and STOPPED once its agent says
that the machine is gone, or has not answered for as long as the clocks allow. Calls wait for RUNNING: a handle may
arrive, sent by the owner, before the machine is up. But they do not wait for one that cannot be connected to, though
its agent answers: if the machine says that it has no descriptor free they fail at once, and otherwise after as long as
the clocks allow. A connection that nobody takes up (a time-out) is none of these: the program is still coming up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from bigmachine.agent import MachineInfo
from bigmachine.errors import AuthenticationError, BigmachineError, Cause, DeathCertificate, InvalidCall, MachineStopped
from bigmachine.machine.handle import Machine
from bigmachine.machine.life import State
from bigmachine.rpc import Link, PeerFull, PeerGone
from bigmachine.system import Keepalive

_VERDICT = 1.0
_PAUSE = 0.5
_PAUSE_OF_YOUTH = 0.02


class Pinger:
    """Follows one dialled machine; on the reactor's thread but for `begin` and `cancel`."""

    is_owner = False

    def __init__(
        self, machine: Machine, program: Link, agent: Link, keepalive: Keepalive, *, is_young: bool = False
    ) -> None:
        self.machine = machine
        self._program = program
        self._agent = agent
        self._clocks = keepalive
        self._supervisor = f"Supervisor@{machine.machine_id}"
        self._is_young = is_young
        self._tasks: list[asyncio.Task[object]] = []
        self._is_known = asyncio.Event()
        machine.keep(self)

    def begin(self) -> None:
        """Start following it; from any thread."""
        self.machine.enter(State.STARTING)
        self._program.reactor.post(self._begin)

    def _begin(self) -> None:
        if self.machine.state is State.STOPPED:
            return
        spawn = self._program.reactor.spawn
        self._tasks += [
            spawn(self._follow(), f"ping {self.machine.name}"),
            spawn(self._bring_up(), f"dial {self.machine.name}"),
        ]

    async def _bring_up(self) -> None:
        failing_since: float | None = None
        while self.machine.state is not State.STOPPED:
            try:
                await self._program.submit("Supervisor.running", (), {}, is_urgent=True)
            except BigmachineError as exc:
                if (fate := self._fate(exc)) is not None:
                    self._stop(fate)
                    return
                now = time.monotonic()
                failing_since = None if _is_late(exc) or self._may_come else failing_since or now
                overdue = failing_since is not None and now - failing_since >= self._clocks.timeout
                if isinstance(exc, PeerFull) or overdue:
                    self._program.refuse_held(exc)
                await asyncio.sleep(self._pause)
            else:
                await self._is_known.wait()
                if self.machine.enter(State.RUNNING):
                    self._program.release()
                return

    async def _follow(self) -> None:
        answered = time.monotonic()
        patience = max(0.5, self._clocks.timeout / 3)
        while self.machine.state is not State.STOPPED:
            sent = time.monotonic()
            try:
                await self._ask(patience)
            except BigmachineError as exc:
                silent = time.monotonic() - answered
                if (fate := self._fate(exc)) is not None:
                    self._stop(fate)
                elif silent >= self._clocks.timeout:
                    self._stop(self._gone(Cause.KEEPALIVE_LOST, f"no ping was answered for {silent:.1f} s", exc))
                else:
                    await asyncio.sleep(self._pause)
            else:
                answered = time.monotonic()
                self.machine.kept_alive(answered - sent, self._clocks.timeout)
                await asyncio.sleep(self._clocks.interval)

    @property
    def _may_come(self) -> bool:
        """Whether the agent may not have the machine yet."""
        return self._is_young and not self._is_known.is_set()

    @property
    def _pause(self) -> float:
        return _PAUSE_OF_YOUTH if self._may_come else min(_PAUSE, self._clocks.interval)

    async def _ask(self, patience: float) -> None:
        """Ping it; the first time by asking what it is."""
        if self._is_known.is_set():
            await self._agent.submit(f"{self._supervisor}.ping", (), {}, patience)
            return
        info: MachineInfo = await self._agent.submit(f"{self._supervisor}.info", (), {}, patience)
        self.machine.hostname, self.machine.maxprocs = info.hostname, info.maxprocs
        self._is_known.set()
        self.machine.launched()

    def _fate(self, exc: BigmachineError) -> MachineStopped | None:
        """Return what an error says of the machine; None if it may be well."""
        if isinstance(exc, MachineStopped):
            return MachineStopped(exc.certificate)
        if isinstance(exc, PeerGone):
            return self._gone(Cause.AGENT_LOST, "nothing listens at its address any more", exc)
        if exc.temporary or isinstance(exc, TimeoutError):
            return None
        if self._may_come and isinstance(exc, InvalidCall | AuthenticationError):
            return None  # its name is not known there yet; that will change soon, or its owner give it up
        return self._gone(Cause.AGENT_LOST, "who answers at its address does not have it", exc)

    def _gone(self, cause: Cause, detail: str, exc: BaseException) -> MachineStopped:
        text = f"{detail} ({type(exc).__name__}: {exc})"
        error = MachineStopped(DeathCertificate(cause, self.machine.name, text, stopped=time.time()))
        error.__cause__ = exc
        return error

    def _stop(self, error: MachineStopped) -> None:
        self.machine.stop(error)
        self.close(error)

    async def verdict(self, cause: BigmachineError) -> BaseException:
        """Say what a lost connection to the program means: the agent knows whether it lives."""
        end = time.monotonic() + _VERDICT
        while self.machine.state is not State.STOPPED and (left := end - time.monotonic()) > 0:
            try:
                await self._agent.submit(f"{self._supervisor}.survives", (), {}, left)
            except BigmachineError as exc:
                if (fate := self._fate(exc)) is not None:
                    self._stop(fate)
                    break
                if self._may_come:
                    break
                await asyncio.sleep(0.01)
            else:
                break
        return self.machine.error or cause

    def cancel(self) -> None:
        """Stop following; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and everything with it
            self._program.reactor.post(self._cancelled)

    def _cancelled(self) -> None:
        assert self.machine.error is not None
        self.close(self.machine.error)

    def close(self, error: BaseException) -> None:
        """Stop following; on the reactor's thread."""
        for task in self._tasks:
            if task is not asyncio.current_task(self._program.reactor.loop):
                task.cancel()
        self._agent.close(error)

    def shutdown(self, timeout: float) -> None:
        """Nothing: only the owner ends a machine."""


def _is_late(exc: BaseException) -> bool:
    """Tell whether a connection was not refused, nor broken, but not taken up in time."""
    return isinstance(exc, TimeoutError) or isinstance(exc.__cause__, TimeoutError)
