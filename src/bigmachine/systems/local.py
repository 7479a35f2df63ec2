"""Machines as processes of this host: one agent, a child of the driver, carries all of them.

They go the way every machine goes: an agent, one port (on 127.0.0.1), TLS, leases. What is tested here is what runs
elsewhere. The agent hangs on its standard input (the tether): when this process is gone, however, it ends everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from bigmachine.agent import Bootstrap, Clocks, agent_command
from bigmachine.errors import ProvisionError
from bigmachine.image import interpreter_args
from bigmachine.system import Keepalive, Launched, System, Ticket
from bigmachine.trust import Role

_REPORT_TIMEOUT = 60.0
_STEP = 0.05


class LocalSystem(System):
    """Provides machines on this computer.

    `maxprocs`: how many calls at once a machine is meant for. One by default, since one interpreter keeps one core
    busy, and the machines share this computer's.
    """

    name = "local"

    def __init__(self, maxprocs: int = 1, keepalive: Keepalive | None = None) -> None:
        self.maxprocs = maxprocs
        self.keepalive = keepalive or Keepalive(interval=2.0, timeout=10.0, lease=10.0)
        self._agent: subprocess.Popen[bytes] | None = None
        self._agent_id = ""
        self._port = 0
        self._starting = threading.Lock()
        self._is_shut_down = False

    def prepare(self) -> None:
        """Start the agent's process; it needs its orders, which `launch` writes, only after its own imports."""
        with self._starting:
            self._spawn()

    def _spawn(self) -> None:
        if self._agent is not None:
            return
        if not sys.executable:
            raise ProvisionError("sys.executable is empty: local machines need to know this program's interpreter")
        try:
            self._agent = subprocess.Popen(
                agent_command(_absolute(sys.path)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                cwd="/",
            )
        except OSError as exc:
            raise ProvisionError(f"the agent's process could not be started ({sys.executable}): {exc}") from exc

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        if n < 1:
            raise ProvisionError(f"{n} machines were asked for: it has to be at least one")
        with self._starting:
            if self._is_shut_down:
                raise ProvisionError("this local system was shut down; make a new one")
            if not self._port:
                self._spawn()
                self._give_orders(ticket)
                self._port = self._await_report()
        place = Launched(self._agent_id, "127.0.0.1", self._port, socket.gethostname(), self.maxprocs)
        return [place] * n

    def _give_orders(self, ticket: Ticket) -> None:
        agent = self._agent
        assert agent is not None
        assert agent.stdin is not None
        self._agent_id = f"h{secrets.token_hex(3)}"
        clocks = self.keepalive
        orders = Bootstrap(
            identity=ticket.issue(Role.AGENT, self._agent_id),
            clocks=Clocks(lease=clocks.lease, hang=clocks.hang, first_contact=clocks.first_contact),
            listen=("127.0.0.1", 0),
            interpreter=interpreter_args(),
            sys_path=_absolute(sys.path),
            driver_pid=os.getpid(),
        )
        try:
            agent.stdin.write(orders.to_json())
        except OSError as exc:
            raise self._died(exc) from exc

    def _await_report(self) -> int:
        agent = self._agent
        assert agent is not None
        assert agent.stdout is not None
        end = time.monotonic() + _REPORT_TIMEOUT
        report = b""
        while not report.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0:
                raise ProvisionError(f"the agent (process {agent.pid}) did not come up within {_REPORT_TIMEOUT:.0f} s")
            if select.select([agent.stdout], [], [], left)[0]:
                piece = os.read(agent.stdout.fileno(), 4096)
                if not piece:
                    raise self._died(None)
                report += piece
        return int(json.loads(report)["port"])

    def _died(self, exc: OSError | None) -> ProvisionError:
        agent = self._agent
        assert agent is not None
        try:
            status = agent.wait(2)
        except subprocess.TimeoutExpired:
            return ProvisionError(f"the agent (process {agent.pid}) closed its pipe without saying why: {exc}")
        return ProvisionError(
            f"the agent ended with status {status} before it listened; what it wrote to stderr says why. "
            f"Its command: {' '.join(agent_command([])[:-2])} ..."
        )

    def shutdown(self, timeout: float) -> None:
        with self._starting:
            self._is_shut_down = True
            agent, self._agent = self._agent, None
        if agent is None:
            return
        end = time.monotonic() + timeout
        if agent.stdin is not None:
            with contextlib.suppress(OSError):
                agent.stdin.close()  # the tether: now it ends whatever is left
        try:
            agent.wait(max(_STEP, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait(_STEP * 100)
        finally:
            if agent.stdout is not None:
                agent.stdout.close()


def _absolute(path: Sequence[str]) -> list[str]:
    """Make a module search path that means the same from everywhere."""
    return [os.path.abspath(entry) for entry in path]
