"""A machine that dies or stands still is certified at once, to whoever waits for it; all others go on."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from bigmachine import Call, DeathCertificate, Keepalive, Machine, MachineStopped, State
from tests.cluster.fault_services import SlowAsyncInit, SlowInit, Target
from tests.cluster.processes import LIMIT, Cluster, cluster_in, is_alive, machine_pid, wait_for, wait_until_gone

#: From the kill to the caller's error.
PROMPT = 0.05
#: The same at its worst, on a computer that does many other things.
LATEST = 0.5

IMPATIENT = Keepalive(interval=0.2, timeout=1.5, lease=1.0, hang=0.5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch"), keepalive=IMPATIENT) as cluster:
        yield cluster


@contextmanager
def victims(cluster: Cluster, n: int = 1) -> Iterator[list[Machine]]:
    """Have machines for the time of a test, in which they may come to any harm, and the others to none."""
    with cluster.unharmed():
        machines = cluster.session.start(n, services=[Target()])
        for machine in machines:
            machine.wait(State.RUNNING, LIMIT)
        yield machines
        for machine in machines:
            machine.shutdown()
            assert machine.state is State.STOPPED
            assert machine not in cluster.session.machines()


def kill(machine: Machine) -> None:
    os.kill(machine_pid(machine), signal.SIGKILL)


def certificate_of(call: Call[Any], within: float = LIMIT) -> DeathCertificate:
    """Return the certificate with which a call fails, which it has to do in time."""
    error = call.exception(within)
    assert isinstance(error, MachineStopped), error
    return error.certificate


def test_callers_of_a_machine_that_is_killed_know_it_within_50_ms(cluster: Cluster) -> None:
    took = []
    with victims(cluster, 5) as machines:
        for machine in machines:
            pid = machine_pid(machine)
            stream = machine.call(Target.count)
            assert next(stream) == 0
            calls = [machine.submit(Target.nap, 60), machine.submit(Target.doze, 60)]
            machine.call(Target.echo, 1)
            with ThreadPoolExecutor(1) as pool:
                blocked = pool.submit(machine.call, Target.nap, 60)
                machine.call(Target.echo, 1)
                begin = time.perf_counter()
                os.kill(pid, signal.SIGKILL)
                certificates = [certificate_of(call) for call in calls]
                blocked.exception(LIMIT)
                took.append(time.perf_counter() - begin)
            with pytest.raises(MachineStopped) as in_thread:
                blocked.result()
            with pytest.raises(MachineStopped) as in_stream:
                for _ in stream:
                    pass
            with pytest.raises(MachineStopped) as afterwards:
                machine.call(Target.echo, 1)
            everywhere = [*certificates, in_thread.value.certificate, in_stream.value.certificate]
            assert all(certificate == afterwards.value.certificate for certificate in everywhere)
            certificate = afterwards.value.certificate
            assert (certificate.cause, certificate.signal, certificate.pid) == ("signal", signal.SIGKILL, pid)
            assert certificate.machine == machine.name
            assert machine.error is not None
            assert not is_alive(pid)
    assert statistics.median(took) <= PROMPT
    assert max(took) <= LATEST


def test_whoever_awaits_a_machine_that_is_killed_knows_it(cluster: Cluster) -> None:
    async def scenario(machine: Machine) -> None:
        call = machine.submit(Target.nap, 60)
        await machine.submit(Target.echo, 1)
        os.kill(await machine.submit("Supervisor.getpid"), signal.SIGKILL)
        async with asyncio.timeout(LATEST):
            with pytest.raises(MachineStopped):
                await call

    with victims(cluster) as machines:
        asyncio.run(scenario(machines[0]))


def test_a_machine_that_calls_one_that_is_killed_knows_it_too(cluster: Cluster) -> None:
    with victims(cluster) as machines:
        call = cluster.machine.submit(Target.ask, machines[0], "Target.hold", "it")
        wait_for(lambda: machines[0].call(Target.is_held, "it"), "the call has arrived")
        os.kill(machine_pid(machines[0]), signal.SIGKILL)
        certificate = certificate_of(call, 2 * LATEST)
        assert (certificate.cause, certificate.signal) == ("signal", signal.SIGKILL)


def test_a_segfault_leaves_the_python_stack_in_the_certificate(cluster: Cluster) -> None:
    with victims(cluster) as machines:
        certificate = certificate_of(machines[0].submit(Target.crash))
    assert (certificate.cause, certificate.signal) == ("signal", signal.SIGSEGV)
    text = "\n".join(certificate.last_lines)
    assert "Segmentation fault" in text
    assert "fault_services.py" in text
    assert "in crash" in text


@pytest.mark.parametrize("status", [0, 3])
def test_an_exit_is_certified_with_its_status_and_last_words(cluster: Cluster, status: int) -> None:
    with victims(cluster) as machines:
        certificate = certificate_of(machines[0].submit(Target.die, status))
    assert (certificate.cause, certificate.exit_status, certificate.signal) == ("exited", status, None)
    assert certificate.last_lines == ("these are the last words",)


def test_what_a_machine_started_ends_with_it(cluster: Cluster) -> None:
    with victims(cluster, 3) as machines:
        ends: list[Callable[[Machine], None]] = [Machine.shutdown, kill, Machine.cancel]
        for machine, end in zip(machines, ends, strict=True):
            pids = machine.call(Target.start_strays)
            assert all(map(is_alive, pids))
            end(machine)
            wait_until_gone(pids, 1.0)


# Clocks.


def test_a_machine_that_stands_still_is_hung(impatient: Cluster) -> None:
    with victims(impatient) as machines:
        call = machines[0].submit(Target.nap, 60)
        machines[0].call(Target.echo, 1)
        pid = machine_pid(machines[0])
        begin = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        certificate = certificate_of(call, IMPATIENT.hang + 1.0)
        assert time.monotonic() - begin >= IMPATIENT.hang / 2
        assert certificate.cause == "hung"
        wait_until_gone([pid], 1.0)


def test_a_machine_that_stands_still_for_a_moment_goes_on(impatient: Cluster) -> None:
    with victims(impatient) as machines:
        call = machines[0].submit(Target.nap, 0.4)
        machines[0].call(Target.echo, 1)
        pid = machine_pid(machines[0])
        os.kill(pid, signal.SIGSTOP)
        time.sleep(IMPATIENT.hang / 3)
        os.kill(pid, signal.SIGCONT)
        assert call.result(LIMIT) == "rested"


def test_a_call_is_not_the_machines_hang(impatient: Cluster) -> None:
    with victims(impatient) as machines:
        assert machines[0].call(Target.doze, 3 * IMPATIENT.hang) == "rested"


@pytest.mark.parametrize("service", [SlowInit(1.5), SlowAsyncInit(1.5)], ids=["plain", "async"])
def test_an_init_may_take_longer_than_the_lease(impatient: Cluster, service: SlowInit) -> None:
    assert service.seconds > IMPATIENT.lease
    with impatient.unharmed():
        (machine,) = impatient.session.start(1, services={"slow": service})
        pending = machine.submit(SlowInit.ready)
        assert machine.wait(State.RUNNING, LIMIT) is State.RUNNING
        assert pending.result(LIMIT) == "up"
        machine.shutdown()


# The end that everybody wants.


@pytest.mark.parametrize("how", ["it clings to its life", "its loop stands still", "it was stopped"])
def test_shutting_down_a_machine_that_does_not_obey_takes_as_long_as_it_may(cluster: Cluster, how: str) -> None:
    with victims(cluster) as machines:
        machine = machines[0]
        pid = machine_pid(machine)
        disobey(machine, how)
        begin = time.monotonic()
        machine.shutdown(timeout=1.0)
        assert time.monotonic() - begin < 1.5
        assert isinstance(machine.error, MachineStopped)
        assert machine.error.certificate.cause == "shutdown"
        assert not is_alive(pid)


def disobey(machine: Machine, how: str) -> None:
    """Make a machine unable to end by itself."""
    if how == "it clings to its life":
        machine.call(Target.cling, 60)
    elif how == "its loop stands still":
        machine.submit(Target.block, 60)
        time.sleep(0.05)  # nothing can be asked any more that would say that it has begun
    else:
        os.kill(machine_pid(machine), signal.SIGSTOP)


def test_shutting_a_session_down_is_bounded_whatever_its_machines_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    with ExitStack() as stack:
        cluster = stack.enter_context(cluster_in(tmp_path_factory.mktemp("scratch"), 4))
        pids = list(map(machine_pid, cluster.machines))
        for machine, how in zip(
            cluster.machines, ["it clings to its life", "its loop stands still", "it was stopped"], strict=False
        ):
            disobey(machine, how)
        pending = [machine.submit(Target.nap, 60) for machine in cluster.machines]
        begin = time.monotonic()
        cluster.session.shutdown(timeout=1.0)
        assert time.monotonic() - begin < 2.0
        assert not any(map(is_alive, pids))
        for call in pending:
            assert certificate_of(call, 0.1).cause == "shutdown"
        cluster.session.shutdown()
        assert cluster.session.machines() == []
