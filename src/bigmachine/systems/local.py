"""Machines as processes of this host: one agent, a child of the driver, carries all of them.

They go the way every machine goes: an agent, one port (on 127.0.0.1), TLS, leases. What is tested here is what runs
elsewhere. The agent hangs on its standard input (the tether): when this process is gone, however, it ends everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import BinaryIO

from bigmachine.agent import Bootstrap, Clocks, agent_command
from bigmachine.agent.commands import AGENT_MARK
from bigmachine.errors import InvalidCall, ProvisionError
from bigmachine.image import interpreter_args
from bigmachine.system import HasMachineId, Keepalive, Launched, System, Ticket, agent_id_of
from bigmachine.trust import Role

_REPORT_TIMEOUT = 60.0
_STEP = 0.05
_LAST_WAIT = 5.0


class LocalSystem(System):
    """Provides machines on this computer.

    `maxprocs`: how many calls at once a machine is meant for. One by default, since one interpreter keeps one core
    busy, and the machines share this computer's.
    """

    name = "local"

    def __init__(self, maxprocs: int = 1, keepalive: Keepalive | None = None) -> None:
        self.maxprocs = maxprocs
        self.keepalive = keepalive or Keepalive(interval=2.0, timeout=10.0, lease=10.0)
        # One launch at a time. Reentrant, because a signal's handler may interrupt one, and shut the system down.
        self._launching = threading.RLock()
        self._agent: _AgentProcess | None = None
        self._is_shut_down = False

    def prepare(self) -> None:
        """Start the agent's process; it needs its orders, which `launch` writes, only after its own imports."""
        with self._launching:
            self._running_agent()

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        if n < 1:
            raise ProvisionError(f"{n} machines were asked for: it has to be at least one")
        with self._launching:
            agent = self._running_agent()
            if not agent.port:
                try:
                    agent.order(self._orders(agent, ticket))
                except ProvisionError as exc:
                    self._agent = None  # the next launch begins with another one
                    agent.end(_STEP)
                    if self._is_shut_down:
                        raise ProvisionError("this local system was shut down while it started its agent") from exc
                    raise
        place = Launched(agent.id, "127.0.0.1", agent.port, socket.gethostname(), self.maxprocs)
        return [place] * n

    def _running_agent(self) -> _AgentProcess:
        if self._is_shut_down:
            raise ProvisionError("this local system was shut down; make a new one")
        agent = self._agent
        if agent is not None and agent.port and not agent.is_alive:
            agent.end(_STEP)  # it died, and its machines with it; those to come need another one
            agent = None
        if agent is None:
            agent = self._agent = _AgentProcess()
            if self._is_shut_down:  # meanwhile, and without knowing of this one
                agent.end(_STEP)
                raise ProvisionError("this local system was shut down while it started its agent")
        return agent

    def _orders(self, agent: _AgentProcess, ticket: Ticket) -> Bootstrap:
        clocks = self.keepalive
        return Bootstrap(
            identity=ticket.issue(Role.AGENT, agent.id),
            clocks=Clocks(lease=clocks.lease, hang=clocks.hang, first_contact=clocks.first_contact),
            listen=("127.0.0.1", 0),
            interpreter=interpreter_args(),
            sys_path=_absolute(sys.path),
            driver_pid=os.getpid(),
        )

    def read(self, machine: HasMachineId, path: str) -> BinaryIO:
        agent = self._agent
        if agent is None or agent_id_of(machine) != agent.id:
            raise InvalidCall(f"the machine {machine.machine_id!r} is none of this local system's")
        return open(path, "rb")

    def shutdown(self, timeout: float) -> None:
        self._is_shut_down = True
        agent = self._agent
        if agent is None:
            return
        agent.end(timeout)  # also ends a launch that waits for it in another thread
        with self._launching:
            self._agent = None


class _AgentProcess:
    """An agent as a child of this process. `port` is 0 until it has its orders and listens."""

    def __init__(self) -> None:
        if not sys.executable:
            raise ProvisionError("sys.executable is empty: local machines need to know this program's interpreter")
        self.id = f"h{os.urandom(3).hex()}"
        self.port = 0
        self._is_reading = False
        self._has_ended = False
        try:
            self._process = subprocess.Popen(
                agent_command(_absolute(sys.path)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                cwd="/",
                env=os.environ | {AGENT_MARK: os.urandom(8).hex()},
            )
        except OSError as exc:
            raise ProvisionError(f"the agent's process could not be started ({sys.executable}): {exc}") from exc

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def order(self, orders: Bootstrap) -> None:
        """Give it its orders, and wait until it listens.

        Raises: ProvisionError.
        """
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(orders.to_json())
        except (OSError, ValueError) as exc:
            raise self._died() from exc
        report = self._report()
        try:
            self.port = int(json.loads(report)["port"])
        except (ValueError, KeyError, TypeError) as exc:
            raise ProvisionError(f"the agent reported {report[:200]!r} instead of its port") from exc

    def _report(self) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        self._is_reading = True
        try:
            if self._has_ended:
                raise self._died()
            return self._read_line(stdout.fileno())
        finally:
            self._is_reading = False
            if self._has_ended:
                stdout.close()

    def _read_line(self, fd: int) -> bytes:
        end = time.monotonic() + _REPORT_TIMEOUT
        report = b""
        while not report.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0:
                raise ProvisionError(
                    f"the agent (process {self._process.pid}) did not come up within {_REPORT_TIMEOUT:.0f} s"
                )
            if select.select([fd], [], [], left)[0]:
                piece = os.read(fd, 4096)
                if not piece:
                    raise self._died()
                report += piece
        return report

    def _died(self) -> ProvisionError:
        try:
            status = self._process.wait(2)
        except subprocess.TimeoutExpired:
            return ProvisionError(f"the agent (process {self._process.pid}) closed its pipe without saying why")
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return ProvisionError(
            f"the agent {how} before it listened; what it wrote to stderr says why. "
            f"Its command: {' '.join(agent_command([], interpreter=[])[:-2])} ..."
        )

    def end(self, timeout: float) -> None:
        """End it and its machines: by its tether, and if that takes more than `timeout` seconds by force."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # the tether: now it ends whatever is left
        try:
            process.wait(max(_STEP, timeout))
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it stands in the kernel; nothing more can be done
                process.wait(_LAST_WAIT)
        finally:
            self._has_ended = True
            if not self._is_reading:  # else whoever reads closes it: its number must not be another file's meanwhile
                process.stdout.close()


def _absolute(path: Sequence[str]) -> list[str]:
    """Make a module search path that means the same from everywhere."""
    return [os.path.abspath(entry) for entry in path]
