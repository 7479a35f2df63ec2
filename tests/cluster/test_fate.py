"""What a provider knows of a host is the reason that its machine's end has."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

import bigmachine
from bigmachine import Launched, Machine
from bigmachine.errors import Cause, MachineStopped
from bigmachine.machine import Phase
from bigmachine.system import Keepalive
from bigmachine.systems.local import LocalSystem

PATIENCE = 20.0


class Nothing:
    """A service."""


class Knowing(LocalSystem):
    """A system that knows what became of its hosts, or does not."""

    def __init__(self, told: tuple[Cause, str] | None) -> None:
        super().__init__(keepalive=Keepalive(interval=0.2, timeout=PATIENCE, lease=PATIENCE))
        self.told = told
        self.asked: list[bool] = []

    def fate(self, place: Launched, is_sure: bool) -> tuple[Cause, str] | None:
        self.asked.append(is_sure)
        return self.told


@pytest.fixture
def knowing(request: pytest.FixtureRequest) -> Iterator[tuple[Knowing, Machine]]:
    system = Knowing(request.param)
    with bigmachine.start(system) as session:
        (machine,) = session.start(services=[Nothing()])
        machine.wait(timeout=PATIENCE)
        yield system, machine


def agent_of(machine: Machine) -> int:
    parent = psutil.Process(machine.call("Supervisor.getpid")).parent()
    assert parent is not None
    return parent.pid


def cause_of(machine: Machine, timeout: float) -> tuple[str, str]:
    machine.wait(bigmachine.State.STOPPED, timeout=timeout)
    assert isinstance(machine.error, MachineStopped)
    return machine.error.certificate.cause, machine.error.certificate.detail


@pytest.mark.parametrize("knowing", [(Cause.PREEMPTED, "it was taken")], indirect=True)
def test_an_agent_that_is_gone_is_explained_by_its_provider(knowing: tuple[Knowing, Machine]) -> None:
    system, machine = knowing
    os.kill(agent_of(machine), signal.SIGKILL)
    assert cause_of(machine, PATIENCE) == ("preempted", "it was taken")
    assert True in system.asked


@pytest.mark.parametrize("knowing", [None], indirect=True)
def test_without_an_explanation_the_agent_is_lost(knowing: tuple[Knowing, Machine]) -> None:
    system, machine = knowing
    os.kill(agent_of(machine), signal.SIGKILL)
    assert cause_of(machine, PATIENCE)[0] == "agent_lost"
    assert True in system.asked


@pytest.mark.parametrize("knowing", [(Cause.PREEMPTED, "it was taken")], indirect=True)
def test_a_silent_agent_is_asked_about_long_before_it_is_given_up(knowing: tuple[Knowing, Machine]) -> None:
    _, machine = knowing
    agent = agent_of(machine)
    os.kill(agent, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert cause_of(machine, PATIENCE) == ("preempted", "it was taken")
        assert time.monotonic() - began < PATIENCE / 2
    finally:
        os.kill(agent, signal.SIGCONT)


class Slow:
    """A service that is installed late."""

    def init(self, session: object) -> None:
        time.sleep(60)


@pytest.mark.parametrize(
    ("told", "cause"), [((Cause.PREEMPTED, "it was taken"), "preempted"), (None, "agent_lost")], ids=["told", "not"]
)
def test_a_host_that_is_lost_while_its_machine_starts_is_no_failure_of_the_program(
    told: tuple[Cause, str] | None, cause: str
) -> None:
    system = Knowing(told)
    with bigmachine.start(system) as session:
        (machine,) = session.start(services=[Slow()])
        end = time.monotonic() + PATIENCE
        while machine.phase is not Phase.INITIALISING:
            assert time.monotonic() < end
            time.sleep(0.01)
        (agent,) = [child.pid for child in psutil.Process().children() if "agent" in " ".join(child.cmdline())]
        os.kill(agent, signal.SIGKILL)
        assert cause_of(machine, PATIENCE)[0] == cause
