"""A thread that reads its outcome by itself hears of its machine's end as soon, and as exactly, as any other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bigmachine import Keepalive, Machine, MachineStopped, State
from tests.cluster.fault_services import Target
from tests.cluster.processes import LIMIT, Cluster, call_often, cluster_in, machine_pid, wait_for

IMPATIENT = Keepalive(interval=0.2, timeout=1.5, lease=1.0, hang=0.5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch"), keepalive=IMPATIENT) as cluster:
        yield cluster


@pytest.fixture
def machine(cluster: Cluster) -> Iterator[Machine]:
    (machine,) = cluster.session.start(1, services=[Target()])
    machine.wait(State.RUNNING, LIMIT)
    call_often(machine)
    yield machine
    machine.shutdown()


def is_read_directly(machine: Machine) -> bool:
    direct = machine._program._direct
    return direct is not None and direct.is_waiting


@pytest.mark.parametrize("way", ["killed", "stands still", "shut down", "ends itself"])
def test_whoever_waits_is_told_why_the_machine_stopped(machine: Machine, way: str) -> None:
    pid = machine_pid(machine)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(machine.call, Target.doze, 2 * LIMIT)
        wait_for(lambda: is_read_directly(machine), "the thread reads by itself")
        begin = time.monotonic()
        if way == "killed":
            os.kill(pid, signal.SIGKILL)
        elif way == "stands still":
            os.kill(pid, signal.SIGSTOP)
        elif way == "shut down":
            machine.shutdown(1.0)
        else:
            machine.submit(Target.die, 3)
        error = waiting.exception(LIMIT)
    assert isinstance(error, MachineStopped)
    assert error.certificate == machine.error.certificate  # type: ignore[union-attr]  # it has stopped, so it has one
    assert time.monotonic() - begin < LIMIT


def test_calls_go_on_after_the_connections_were_cut(machine: Machine) -> None:
    link = machine._program

    async def cut() -> None:
        link.drop()

    for n in range(3):
        link.reactor.run(cut(), LIMIT)
        assert machine.retry_call(Target.echo, n) == n
        call_often(machine)
        assert machine.call(Target.echo, n) == n


def test_a_signal_that_does_not_wake_the_thread_that_reads_is_handled_all_the_same(machine: Machine) -> None:
    class Heard(Exception):
        pass

    def hear(number: int, frame: object) -> None:
        raise Heard

    def send() -> None:
        wait_for(lambda: is_read_directly(machine), "the main thread reads by itself")
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # to this thread, so the other sleeps on

    before = signal.signal(signal.SIGUSR1, hear)
    try:
        with ThreadPoolExecutor(1) as threads:
            sent = threads.submit(send)
            begin = time.monotonic()
            with pytest.raises(Heard):
                machine.call(Target.doze, LIMIT)
            assert time.monotonic() - begin < LIMIT / 2
            sent.result(LIMIT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert machine.call(Target.echo, 1) == 1
