"""An agent that dies takes its machines along and their callers know; one that hears nothing ends them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from bigmachine import Call, Keepalive, MachineStopped, State
from tests.cluster.fault_services import Target
from tests.cluster.processes import LIMIT, agent_pid, below, cluster_in, is_alive, wait_for, wait_until_gone
from tests.cluster.programs import IMPORTABLE, Running, StartProgram, WriteProgram

GONE_WITHIN = 1.0
PROMPT = 0.5


def test_when_the_agent_is_killed_its_machines_are_gone_and_their_callers_know(tmp_path: Path) -> None:
    with cluster_in(tmp_path, 3) as cluster:
        one, other, third = cluster.machines
        calls: list[Call[object]] = [
            one.submit(Target.nap, 60),
            other.submit(Target.doze, 60),
            one.submit(Target.ask, other, "Target.nap", 60),
        ]
        wait_for(lambda: one.call(Target.echo, 1), "the calls are on their way")
        stream = third.call(Target.count)
        assert next(stream) == 0
        agent = agent_pid(one)
        pids = [agent, *below(agent)]
        begin = time.monotonic()
        os.kill(agent, signal.SIGKILL)
        errors = [call.exception(LIMIT) for call in calls]
        assert time.monotonic() - begin < PROMPT
        wait_until_gone(pids, GONE_WITHIN)
        with pytest.raises(MachineStopped) as in_stream:
            for _ in stream:
                pass
        for error in (*errors, in_stream.value, *(machine.error for machine in cluster.machines)):
            assert isinstance(error, MachineStopped)
            assert error.certificate.cause == "agent_lost"
        assert [machine.state for machine in cluster.machines] == [State.STOPPED] * 3
        assert cluster.session.machines() == []


def test_a_session_whose_agent_was_killed_starts_another(tmp_path: Path) -> None:
    with cluster_in(tmp_path) as cluster:
        first = agent_pid(cluster.machine)
        os.kill(first, signal.SIGKILL)
        wait_until_gone([first], GONE_WITHIN)
        wait_for(lambda: cluster.machine.state is State.STOPPED, "the driver knows it")
        (machine,) = cluster.session.start(1, services=[Target()])
        assert machine.call(Target.add, 41) == 42
        assert agent_pid(machine) != first
        begin = time.monotonic()
        cluster.session.shutdown()
        assert time.monotonic() - begin < PROMPT


def test_an_agent_that_stands_still_is_lost_with_its_machines(tmp_path: Path) -> None:
    clocks = Keepalive(interval=0.2, timeout=0.8, lease=5.0, hang=5.0)
    with cluster_in(tmp_path, 2, clocks) as cluster:
        agent = agent_pid(cluster.machine)
        pids = [agent, *below(agent)]
        # To other machines calls go without the agent's help, so they go on until the machine is given up.
        calls = [machine.submit(Target.nap, 60) for machine in cluster.machines]
        os.kill(agent, signal.SIGSTOP)
        begin = time.monotonic()
        for call in calls:
            error = call.exception(LIMIT)
            assert isinstance(error, MachineStopped)
            assert error.certificate.cause == "keepalive_lost"
        assert clocks.timeout - 0.3 < time.monotonic() - begin < clocks.timeout + 1.5
        begin = time.monotonic()
        cluster.session.shutdown(timeout=0.5)
        assert time.monotonic() - begin < 3.5
        wait_until_gone(pids, GONE_WITHIN)


DRIVER = """
import json, logging, os, sys, time
import bigmachine
from bigmachine import Keepalive, MachineStopped
from bigmachine.systems.local import LocalSystem
from tests.cluster.fault_services import Target

def main(place):
    clocks = Keepalive(interval=0.1, timeout=10.0, lease=0.5, hang=5.0)
    with bigmachine.start(LocalSystem(keepalive=clocks)) as session:
        machines = session.start(2, services=[Target()])
        calls = [machine.submit(Target.nap, 60) for machine in machines]
        pids = [machine.call(Target.pid) for machine in machines]
        with open(place + ".new", "w") as file:
            json.dump(pids, file)
        os.rename(place + ".new", place)
        causes = []
        for call in calls:
            try:
                call.result()
            except MachineStopped as error:
                causes.append(error.certificate.cause)
        print(json.dumps(causes), flush=True)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture
def start_driver(
    start_program: StartProgram, write: WriteProgram, tmp_path: Path
) -> Callable[[], tuple[Running, list[int]]]:
    """Start a driver with short clocks; returns it and its machines' processes."""

    def start() -> tuple[Running, list[int]]:
        place = tmp_path / "pids.json"
        environ = {"PYTHONPATH": f"{IMPORTABLE}:{Path(__file__).parents[2]}"}
        running = start_program(write("drive.py", DRIVER), place, environ=environ)
        wait_for(lambda: place.exists() or running.process.poll() is not None, "the driver is ready")
        assert running.process.poll() is None, running.wait()
        return running, json.loads(place.read_text())

    return start


def test_machines_of_a_driver_that_stands_still_end_with_their_lease(
    start_driver: Callable[[], tuple[Running, list[int]]],
) -> None:
    running, pids = start_driver()
    with ExitStack() as stack:
        os.kill(running.process.pid, signal.SIGSTOP)
        stack.callback(os.kill, running.process.pid, signal.SIGCONT)
        assert wait_until_gone(pids, 2.0) > 0.2
    outcome = running.wait()
    assert (outcome.status, json.loads(outcome.out)) == (0, ["lease_expired", "lease_expired"])


def test_the_agent_of_a_driver_that_stands_still_for_good_ends_too(
    start_driver: Callable[[], tuple[Running, list[int]]],
) -> None:
    running, _ = start_driver()
    everything = below(running.process.pid)
    with ExitStack() as stack:
        os.kill(running.process.pid, signal.SIGSTOP)
        stack.callback(os.kill, running.process.pid, signal.SIGCONT)
        wait_until_gone(everything, 4.0)
    outcome = running.wait()
    # It comes back when even the agent is gone: then nobody can say any more what the end was.
    assert outcome.status == 0
    assert set(json.loads(outcome.out)) <= {"lease_expired", "agent_lost"}


def test_a_driver_that_stands_still_for_a_moment_goes_on(
    start_driver: Callable[[], tuple[Running, list[int]]],
) -> None:
    running, pids = start_driver()
    os.kill(running.process.pid, signal.SIGSTOP)
    time.sleep(0.2)  # less than the lease
    os.kill(running.process.pid, signal.SIGCONT)
    time.sleep(0.6)  # more than the lease
    assert all(map(is_alive, pids))
    os.kill(running.process.pid, signal.SIGINT)
    assert running.wait().status == -signal.SIGINT
