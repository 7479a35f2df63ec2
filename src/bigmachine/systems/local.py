"""Machines as processes of this host: one agent, a child of the driver, carries all of them.

They go the way every machine goes: an agent, one port (on 127.0.0.1), TLS, leases. What is tested here is what runs
elsewhere. The agent hangs on its standard input (the tether): when this process is gone, however, it ends everything.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import BinaryIO

from bigmachine.agent import Bootstrap, Clocks
from bigmachine.agent.spawned import SpawnedAgent, absolute
from bigmachine.errors import InvalidCall, ProvisionError
from bigmachine.image import interpreter_args
from bigmachine.rpc import warm_up
from bigmachine.system import HasMachineId, Keepalive, Launched, System, Ticket, agent_id_of
from bigmachine.trust import Role

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
        # One launch at a time. Reentrant, because a signal's handler may interrupt one, and shut the system down.
        self._launching = threading.RLock()
        self._agent: SpawnedAgent | None = None
        self._is_shut_down = False

    def take(self, agent: SpawnedAgent) -> None:
        """Take an agent that is on its way already; it is ended with this system."""
        self._agent = agent

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
                orders = self._orders(agent, ticket)
                ticket.reactor.post(warm_up)
                try:
                    agent.order(orders)
                except ProvisionError as exc:
                    self._agent = None  # the next launch begins with another one
                    agent.end(_STEP)
                    if self._is_shut_down:
                        raise ProvisionError("this local system was shut down while it started its agent") from exc
                    raise
        place = Launched(agent.id, "127.0.0.1", agent.port, socket.gethostname(), self.maxprocs)
        return [place] * n

    def _running_agent(self) -> SpawnedAgent:
        if self._is_shut_down:
            raise ProvisionError("this local system was shut down; make a new one")
        agent = self._agent
        if agent is not None and agent.port and not agent.is_alive:
            agent.end(_STEP)  # it died, and its machines with it; those to come need another one
            agent = None
        if agent is None:
            agent = self._agent = SpawnedAgent()
            if self._is_shut_down:  # meanwhile, and without knowing of this one
                agent.end(_STEP)
                raise ProvisionError("this local system was shut down while it started its agent")
        return agent

    def _orders(self, agent: SpawnedAgent, ticket: Ticket) -> Bootstrap:
        clocks = self.keepalive
        return Bootstrap(
            identity=ticket.issue(Role.AGENT, agent.id),
            clocks=Clocks(lease=clocks.lease, hang=clocks.hang, first_contact=clocks.first_contact),
            listen=("127.0.0.1", 0),
            interpreter=interpreter_args(),
            sys_path=absolute(sys.path),
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
