"""Whatever ends a machine, its certificate says so, and the error reads like a diagnosis."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bigmachine import Call, DeathCertificate, Machine, MachineStopped, State
from tests.cluster.death_services import BadInit, KilledInit, Mortal
from tests.cluster.processes import LIMIT, Cluster, cluster_in


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch")) as cluster:
        yield cluster


@pytest.fixture
def machine(cluster: Cluster) -> Machine:
    (machine,) = cluster.session.start(1, services=[Mortal()])
    machine.wait(State.RUNNING, LIMIT)
    return machine


def error_of(call: Call[Any]) -> MachineStopped:
    error = call.exception(LIMIT)
    assert isinstance(error, MachineStopped), error
    return error


def check_facts(certificate: DeathCertificate, machine: Machine) -> None:
    """Check what each certificate has to hold."""
    assert certificate.machine == machine.name
    assert certificate.peak_memory is not None
    assert 5 << 20 < certificate.peak_memory < 4 << 30
    assert certificate.cpu_time is not None
    assert 0 < certificate.cpu_time < 60
    assert certificate.lifetime is not None
    assert 0 < certificate.lifetime < 60
    text = str(MachineStopped(certificate))
    assert text.startswith(f"machine {machine.name} stopped ({certificate.cause})")
    assert f"It lived {certificate.lifetime:.1f} s, used at most" in text
    assert certificate.remedy in text


SIGNALS = [
    (signal.SIGKILL, "it was killed"),
    (signal.SIGTERM, "asked it to terminate"),
    (signal.SIGINT, "interrupted"),
    (signal.SIGHUP, "terminal or session was closed"),
    (signal.SIGABRT, "gave up by itself"),
    (signal.SIGSEGV, "touched memory"),
    (signal.SIGBUS, "touched memory"),
    (signal.SIGFPE, "processor cannot"),
    (signal.SIGILL, "does not have"),
    (signal.SIGUSR1, "by SIGUSR1"),
    (signal.SIGQUIT, "by SIGQUIT"),
    (signal.SIGALRM, "by SIGALRM"),
    (signal.SIGXCPU, "ulimit -t"),
    (signal.SIGSYS, "seccomp"),
    (signal.Signals(signal.SIGRTMIN), "by SIGRTMIN"),
]


@pytest.mark.parametrize(("number", "says"), SIGNALS, ids=lambda value: getattr(value, "name", None))
def test_an_end_by_a_signal_is_named_and_explained(machine: Machine, number: signal.Signals, says: str) -> None:
    error = error_of(machine.submit(Mortal.send, number))
    certificate = error.certificate
    assert (certificate.cause, certificate.signal, certificate.exit_status) == ("signal", number, None)
    check_facts(certificate, machine)
    assert number.name in str(error)
    assert says in str(error)
    assert len(certificate.last_lines) == 100
    if number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
        assert any(line.startswith("Fatal Python error") for line in certificate.last_lines)
    else:
        assert certificate.last_lines[-1] == "line 149"


@pytest.mark.parametrize(
    ("way", "number", "frame"),
    [
        (Mortal.segfault, signal.SIGSEGV, "in segfault"),
        (Mortal.abort, signal.SIGABRT, "in abort"),
        (Mortal.bus_error, signal.SIGBUS, "in bus_error"),
    ],
)
def test_a_crash_in_c_leaves_the_python_stack(
    machine: Machine, way: Callable[[Mortal], None], number: signal.Signals, frame: str
) -> None:
    error = error_of(machine.submit(way))
    assert (error.certificate.cause, error.certificate.signal) == ("signal", number)
    check_facts(error.certificate, machine)
    assert frame in "\n".join(error.certificate.last_lines)
    assert "Python stack" in error.certificate.remedy


def test_one_that_uses_more_cpu_than_it_may_is_told_so(machine: Machine) -> None:
    error = error_of(machine.submit(Mortal.use_cpu, 1))
    assert (error.certificate.cause, error.certificate.signal) == ("signal", signal.SIGXCPU)
    assert error.certificate.cpu_time is not None
    assert error.certificate.cpu_time >= 0.9
    assert "more CPU time than it may" in str(error)


@pytest.mark.parametrize("status", [0, 3, 255])
def test_an_exit_says_with_which_status(machine: Machine, status: int) -> None:
    error = error_of(machine.submit(Mortal.leave, status))
    certificate = error.certificate
    assert (certificate.cause, certificate.exit_status, certificate.signal) == ("exited", status, None)
    check_facts(certificate, machine)
    assert certificate.last_lines == ("these are the last words",)
    assert f"with exit status {status}" in str(error)
    assert "os._exit" in certificate.remedy
    assert str(error).endswith("    these are the last words")


def test_a_limit_on_memory_that_a_machine_died_of_is_named(machine: Machine) -> None:
    error = error_of(machine.submit(Mortal.limit_and_fill, 64 << 20))
    assert (error.certificate.cause, error.certificate.signal) == ("signal", signal.SIGABRT)
    assert "it had reached the limit on its memory: RLIMIT_AS was" in error.certificate.detail
    assert "ulimit -v" in str(error)
    assert "MemoryError" in "\n".join(error.certificate.last_lines)


def test_an_init_that_ran_out_of_memory_says_what_the_limit_was(cluster: Cluster) -> None:
    (machine,) = cluster.session.start(1, services=[BadInit()])
    with pytest.raises(MachineStopped) as caught:
        machine.wait(State.RUNNING, LIMIT)
    certificate = caught.value.certificate
    assert certificate.cause == "init_failed"
    assert "MemoryError" in certificate.detail
    assert "RLIMIT_AS was 1024 MiB" in certificate.detail
    assert isinstance(caught.value.__cause__, MemoryError)


def test_one_that_is_killed_in_its_init_had_not_come_up(cluster: Cluster) -> None:
    (machine,) = cluster.session.start(1, services=[KilledInit()])
    with pytest.raises(MachineStopped) as caught:
        machine.wait(State.RUNNING, LIMIT)
    assert (caught.value.certificate.cause, caught.value.certificate.signal) == ("signal", signal.SIGKILL)


def test_an_exception_in_a_thread_ends_nothing(machine: Machine) -> None:
    machine.call(Mortal.lose_main_thread)
    assert machine.call(Mortal.nap, 0.05) == "rested"
    machine.shutdown()
    assert isinstance(machine.error, MachineStopped)
    certificate = machine.error.certificate
    assert (certificate.cause, certificate.exit_status) == ("shutdown", 0)
    check_facts(certificate, machine)
    assert "ZeroDivisionError" in "\n".join(certificate.last_lines)
    assert "ZeroDivisionError" not in str(machine.error)  # an end that was asked for is no reason to look at output


def test_a_cancelled_machine_says_so(machine: Machine) -> None:
    call = machine.submit(Mortal.nap, 60)
    began = time.monotonic()
    machine.cancel()
    error = error_of(call)
    assert time.monotonic() - began < 1
    assert error.certificate.cause == "cancelled"
    assert "cancelled" in str(error)


def test_callers_know_of_a_kill_at_once(cluster: Cluster) -> None:
    took = []
    for machine in cluster.session.start(5, services=[Mortal()]):
        call = machine.submit(Mortal.nap, 60)
        machine.call(Mortal.pid)
        pid = machine.call(Mortal.pid)
        began = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        error_of(call)
        took.append(time.perf_counter() - began)
    assert sorted(took)[2] < 0.05, took  # 15 ms on a computer that does nothing else
