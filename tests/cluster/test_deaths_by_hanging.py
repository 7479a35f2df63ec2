"""Hung is told from busy: what works in C lives, however long; what stands still is ended, with its stacks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from bigmachine import Keepalive, Machine, MachineStopped, State
from bigmachine.agent.vitals import BLOCKED
from tests.cluster.death_services import Mortal
from tests.cluster.processes import LIMIT, Cluster, cluster_in, is_alive, wait_for

HANG = 0.5
CLOCKS = Keepalive(interval=0.2, timeout=60.0, lease=60.0, hang=HANG)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch"), keepalive=CLOCKS) as cluster:
        yield cluster


@pytest.fixture
def machine(cluster: Cluster) -> Iterator[Machine]:
    (machine,) = cluster.session.start(1, services=[Mortal()])
    machine.wait(State.RUNNING, LIMIT)
    yield machine
    machine.cancel()


@pytest.mark.parametrize("how", ["lock", "sleep"])
def test_an_io_thread_that_waits_for_ever_is_hung_and_its_stacks_are_kept(machine: Machine, how: str) -> None:
    other = machine.submit(Mortal.nap, 60)
    wait_for(lambda: machine.call(Mortal.nap, 0), "it has begun")
    began = time.monotonic()
    error = machine.submit(Mortal.block, how).exception(HANG + 5)
    assert time.monotonic() - began > HANG
    assert isinstance(error, MachineStopped)
    assert error.certificate.cause == "hung"
    assert "I/O thread waits" in error.certificate.detail
    text = str(error.__cause__)
    assert "block (" in text  # the I/O thread
    assert "nap (" in text  # and the others
    assert isinstance(other.exception(1), MachineStopped)


def test_a_stopped_machine_is_reported_in_its_time(machine: Machine) -> None:
    call = machine.submit(Mortal.nap, 60)
    pid = machine.call(Mortal.pid)
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    error = call.exception(HANG + 5)
    assert time.monotonic() - began > HANG / 2
    assert isinstance(error, MachineStopped)
    assert (error.certificate.cause, error.certificate.signal) == ("hung", signal.SIGKILL)
    assert "it was stopped (SIGSTOP, SIGTSTP)" in error.certificate.detail
    assert "by SIGKILL" not in str(error)  # our own doing, and no news
    assert "nap (" in str(error.__cause__)
    assert not is_alive(pid)


def test_one_that_works_in_c_with_the_interpreter_held_lives(machine: Machine) -> None:
    assert machine.submit(Mortal.hold_busy, 8 * HANG).result(60) == "done"
    assert machine.call(Mortal.nap, 0) == "rested"


def test_one_that_waits_in_c_with_the_interpreter_held_lives_for_a_while(machine: Machine) -> None:
    seconds = 3
    assert 4 * HANG < seconds < BLOCKED * HANG
    assert machine.submit(Mortal.hold_asleep, seconds).result(30) == "awake"
    assert machine.call(Mortal.nap, 0) == "rested"


def test_but_not_for_ever(cluster: Cluster, machine: Machine) -> None:
    began = time.monotonic()
    error = machine.submit(Mortal.hold_asleep, 600).exception(
        BLOCKED * HANG + 30
    )  # looking takes its time on a busy host
    assert time.monotonic() - began > BLOCKED * HANG - 1
    assert isinstance(error, MachineStopped)
    assert error.certificate.cause == "hung"
    assert "hold_asleep" in str(error.__cause__)
