"""What happens to machines, to their connections and to their agent."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import stat
import time
from collections.abc import Callable

from bigmachine import Machine, deadline
from bigmachine.agent.processes.tree import Process, look_at
from bigmachine.testing import inject_faults
from tests.chaos.services import Target


def _process_of(machine: Machine) -> Process | None:
    """Find a machine's process; None if what has its pid by now is another's."""
    with deadline(3.0):
        process = look_at(machine.call("Supervisor.getpid"))
    agent = look_at(process.parent) if process is not None else None
    return process if agent is not None and agent.parent == os.getpid() else None


def killed(machine: Machine, dice: random.Random) -> None:
    if (process := _process_of(machine)) is not None:
        _send(process.pid, signal.SIGKILL)


def paused(machine: Machine, dice: random.Random) -> None:
    """Stop it for a moment, shorter or longer than what counts as hung."""
    process = _process_of(machine)
    if process is None:
        return
    _send(process.pid, signal.SIGSTOP)
    time.sleep(dice.choice((0.05, 0.5, 4.0)))
    now = look_at(process.pid)
    if now is not None and (now.parent, now.session) == (process.parent, process.session):
        _send(process.pid, signal.SIGCONT)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def dead_by_itself(machine: Machine, dice: random.Random) -> None:
    machine.submit(Target.die, dice.choice(("exit", "segfault", "abort", "term")))


def shut_down(machine: Machine, dice: random.Random) -> None:
    machine.shutdown(dice.choice((0.1, 1.0, 5.0)))


def cancelled(machine: Machine, dice: random.Random) -> None:
    machine.cancel()


def executed_anew(machine: Machine, dice: random.Random) -> None:
    with deadline(3.0):
        machine.call("Supervisor.exec")


def faulty(machine: Machine, dice: random.Random) -> None:
    """Cut, truncate and delay calls for a while."""
    with inject_faults(machine, seed=dice.randrange(2**32), delay=0.2, cut=0.1, truncate=0.1):
        time.sleep(dice.random())


def cut(machine: Machine, dice: random.Random) -> None:
    """Shut down some of this process's connections, whichever they are."""
    for name in os.listdir("/proc/self/fd"):
        if dice.random() < 0.3:
            with contextlib.suppress(OSError):
                _shut(int(name))


def _shut(fd: int) -> None:
    copy = os.dup(fd)
    if not stat.S_ISSOCK(os.fstat(copy).st_mode):
        os.close(copy)
        return
    with socket.socket(fileno=copy) as connection:
        if connection.family == socket.AF_INET:
            connection.shutdown(socket.SHUT_RDWR)


def agent_killed(machine: Machine, dice: random.Random) -> None:
    """Kill the agent, and thereby all its machines."""
    if (process := _process_of(machine)) is not None:
        _send(process.parent, signal.SIGKILL)


#: What happens, and how often.
BLOWS: dict[Callable[[Machine, random.Random], None], int] = {
    killed: 4,
    paused: 3,
    dead_by_itself: 4,
    shut_down: 3,
    cancelled: 3,
    executed_anew: 3,
    faulty: 3,
    cut: 4,
    agent_killed: 1,
}
