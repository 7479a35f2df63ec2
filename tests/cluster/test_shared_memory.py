"""Shared memory and semaphores that a service made are removed when its machine ends, however that ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import get_context, shared_memory
from multiprocessing.pool import Pool
from pathlib import Path

import psutil
import pytest

import bigmachine
from bigmachine import Machine
from tests.cluster.processes import wait_for, wait_until_gone

MEMORY = Path("/dev/shm")  # where Linux shows what is there
LIMIT = 5.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it cannot be seen what is there")


class Sharing:
    """Makes what no process holds, and never removes it."""

    def __init__(self) -> None:
        self.memory: shared_memory.SharedMemory | None = None
        self.pool: Pool | None = None

    def make(self) -> str:
        self.memory = shared_memory.SharedMemory(create=True, size=1 << 20)
        return self.memory.name

    def work(self) -> list[int]:
        """Use processes that hold the tracker's pipe as well."""
        self.pool = get_context("spawn").Pool(1)
        worker: list[int] = self.pool.map(abs, [-1])
        return worker

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def sharing() -> Iterator[tuple[Machine, list[str]]]:
    before = set(os.listdir(MEMORY))
    with bigmachine.start("local", output="off") as session:
        (machine,) = session.start(services=[Sharing()])
        name = machine.call(Sharing.make)
        machine.call(Sharing.work)
        made = [entry for entry in os.listdir(MEMORY) if entry not in before]
        assert name in made
        yield machine, [name, *(entry for entry in made if entry.startswith("sem.mp-"))]


def wait_until_removed(names: list[str]) -> None:
    wait_for(lambda: not any((MEMORY / name).exists() for name in names), f"{names} are removed", LIMIT)


def test_when_a_machine_is_killed(sharing: tuple[Machine, list[str]]) -> None:
    machine, names = sharing
    tree = psutil.Process(machine.call(Sharing.pid)).children(recursive=True)
    os.kill(machine.call(Sharing.pid), signal.SIGKILL)
    wait_until_removed(names)
    wait_until_gone([process.pid for process in tree], LIMIT)


def test_when_a_machine_is_cancelled(sharing: tuple[Machine, list[str]]) -> None:
    machine, names = sharing
    machine.cancel()
    wait_until_removed(names)


def test_when_a_machine_is_shut_down(sharing: tuple[Machine, list[str]]) -> None:
    machine, names = sharing
    machine.shutdown()
    wait_until_removed(names)


def test_when_the_agent_is_killed(sharing: tuple[Machine, list[str]]) -> None:
    machine, names = sharing
    pid = machine.call(Sharing.pid)
    tree = psutil.Process(pid).children(recursive=True)
    os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
    wait_until_removed(names)
    wait_until_gone([pid, *(process.pid for process in tree)], LIMIT)


def test_when_the_driver_is_gone(sharing: tuple[Machine, list[str]]) -> None:
    machine, names = sharing
    pid = machine.call(Sharing.pid)
    tree = psutil.Process(pid).children(recursive=True)
    _close_tether(psutil.Process(pid).ppid())
    wait_until_removed(names)
    wait_until_gone([pid, *(process.pid for process in tree)], LIMIT)


def test_a_tracker_that_stands_still_ends_with_its_machine(sharing: tuple[Machine, list[str]]) -> None:
    machine, names = sharing
    pid = machine.call(Sharing.pid)
    tree = psutil.Process(pid).children(recursive=True)
    (tracker,) = (process for process in tree if "resource_tracker" in " ".join(process.cmdline()))
    tracker.suspend()
    os.kill(pid, signal.SIGKILL)
    wait_until_gone([process.pid for process in tree], LIMIT)
    for name in names:  # it could not
        (MEMORY / name).unlink(missing_ok=True)


def _close_tether(agent: int) -> None:
    """Close this process's end of the pipe that is the agent's standard input, as its own death would."""
    pipe = os.readlink(f"/proc/{agent}/fd/0")
    ends = [int(fd) for fd in os.listdir("/proc/self/fd") if _target(fd) == pipe]
    assert len(ends) == 1
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, ends[0])
    os.close(null)


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
