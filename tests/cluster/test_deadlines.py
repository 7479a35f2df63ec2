"""Deadlines and cancellation travel with a call, from machine to machine to machine."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from functools import partial

import pytest

import bigmachine
from bigmachine import DeadlineExceeded, Machine
from tests.cluster.fault_services import Relay, Target
from tests.cluster.processes import LIMIT, Cluster, cluster_in, machine_pid, wait_for

#: From the cancellation in the driver to the end of the last frame.
CANCELLED_WITHIN = 0.1
#: How late a deadline may be noticed, on a busy computer.
LATE = 0.25

METHODS = ["pass_on", "pass_on_plainly"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch"), 3, more=[Relay()]) as cluster:
        for one in cluster.machines:  # the first call between two machines dials
            for other in cluster.machines:
                one.call(Target.ask, other, "Target.echo", 1)
        yield cluster


@pytest.fixture
def name() -> str:
    """A name for the call."""
    return uuid.uuid4().hex


def has_arrived(cluster: Cluster, name: str) -> None:
    """Wait until a call has reached all machines."""
    for machine in cluster.machines:
        wait_for(partial(machine.call, Relay.has_begun, name), f"it has begun on {machine.name}")


def ends_of(cluster: Cluster, name: str) -> list[tuple[str, float]]:
    """Wait until a call has ended everywhere, and tell how and when, the first machine first."""
    return [end_on(machine, name) for machine in cluster.machines]


def end_on(machine: Machine, name: str) -> tuple[str, float]:
    end = wait_for(lambda: machine.call(Relay.end_of, name), f"it has ended on {machine.name}", 3.0)
    assert end is not None
    return end


def passed_on(cluster: Cluster, name: str, method: str) -> bigmachine.Call[str]:
    """Begin a call that goes through all machines, and wait until it has."""
    first, *rest = cluster.machines
    call: bigmachine.Call[str] = first.submit(f"Relay.{method}", name, rest, method)
    has_arrived(cluster, name)
    return call


@pytest.mark.parametrize("method", METHODS)
def test_cancelling_at_depth_three_ends_every_frame_within_100_ms(cluster: Cluster, method: str) -> None:
    took = []
    with cluster.unharmed():
        for _ in range(5):
            name = uuid.uuid4().hex
            call = passed_on(cluster, name, method)
            begin = time.monotonic()
            assert call.cancel()
            with pytest.raises(CancelledError):
                call.result(LIMIT)
            assert time.monotonic() - begin < CANCELLED_WITHIN
            ends = ends_of(cluster, name)
            took.append(max(when for _, when in ends) - begin)
            hows = [how for how, _ in ends]
            assert hows == ["CancelledError"] * 3 if method == "pass_on" else ["CancelledError"] * 2 + ["seen"]
    assert statistics.median(took) < CANCELLED_WITHIN


def test_cancelling_the_task_that_awaits_ends_every_frame(cluster: Cluster, name: str) -> None:
    async def scenario() -> None:
        task = asyncio.ensure_future(wait())
        await asyncio.to_thread(has_arrived, cluster, name)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def wait() -> None:
        first, *rest = cluster.machines
        await first.submit(Relay.pass_on, name, rest, "pass_on")

    with cluster.unharmed():
        asyncio.run(scenario())
        assert [how for how, _ in ends_of(cluster, name)] == ["CancelledError"] * 3


def test_closing_a_stream_at_depth_three_closes_every_producer(cluster: Cluster, name: str) -> None:
    first, *rest = cluster.machines
    with cluster.unharmed():
        stream = first.call(Relay.count_up, name, rest, "count_up")
        assert [next(stream) for _ in range(3)] == [0, 1, 2]
        begin = time.monotonic()
        stream.close()
        ends = ends_of(cluster, name)
    assert [how for how, _ in ends] == ["closed"] * 3
    assert max(when for _, when in ends) - begin < 2 * CANCELLED_WITHIN


@pytest.mark.parametrize("method", METHODS)
def test_a_deadline_holds_at_depth_three(cluster: Cluster, name: str, method: str) -> None:
    first, *rest = cluster.machines
    begin = time.monotonic()
    with cluster.unharmed(), bigmachine.deadline(0.4):
        with pytest.raises(DeadlineExceeded):  # the driver's own or a machine's, whichever timer goes off first
            first.call(f"Relay.{method}", name, rest, method)
        assert 0.39 < time.monotonic() - begin < 0.4 + LATE
    left = [machine.call(Relay.left_for, name) or 0.0 for machine in cluster.machines]
    assert 0.4 >= left[0] > left[1] > left[2] > 0
    ends = ends_of(cluster, name)
    assert max(when for _, when in ends) - begin < 0.4 + LATE
    assert ends[2][0] == ("CancelledError" if method == "pass_on" else "seen")


def test_the_earliest_deadline_wins_wherever_it_stands(cluster: Cluster) -> None:
    for outer, inner in ((0.15, 60.0), (60.0, 0.15)):
        begin = time.monotonic()
        with bigmachine.deadline(outer), bigmachine.deadline(inner), pytest.raises(DeadlineExceeded):
            cluster.machine.call(Target.nap, 60)
        assert 0.14 < time.monotonic() - begin < 0.15 + LATE
    with bigmachine.deadline(60), bigmachine.deadline(0.05):
        time.sleep(0.06)
        with pytest.raises(DeadlineExceeded, match="was not sent"):
            cluster.machine.call(Target.echo, 1)
    assert cluster.machine.call(Target.echo, 1) == 1


def test_a_deadline_needs_no_answer(cluster: Cluster) -> None:
    with ExitStack() as stack:
        pid = machine_pid(cluster.machine)
        os.kill(pid, signal.SIGSTOP)
        stack.callback(os.kill, pid, signal.SIGCONT)
        begin = time.monotonic()
        with bigmachine.deadline(0.2):
            calls = [cluster.machine.submit(Target.echo, number) for number in range(10)]
            stuck = cluster.machines[1].submit(Target.ask, cluster.machine, "Target.echo", 1)
        for call in (*calls, stuck):
            assert isinstance(call.exception(LIMIT), DeadlineExceeded)
        assert 0.19 < time.monotonic() - begin < 0.2 + LATE
    assert cluster.machine.call(Target.echo, 1) == 1


def test_a_caller_is_released_at_once_whatever_the_machine_does(cluster: Cluster) -> None:
    with ExitStack() as stack:
        pid = machine_pid(cluster.machine)
        call = cluster.machine.submit(Target.nap, 60)
        cluster.machine.call(Target.echo, 1)
        os.kill(pid, signal.SIGSTOP)
        stack.callback(os.kill, pid, signal.SIGCONT)
        begin = time.monotonic()
        assert call.cancel()
        with pytest.raises(CancelledError):
            call.result(LIMIT)
        assert time.monotonic() - begin < 0.05
    wait_for(lambda: cluster.machine.call(Target.tasks) == cluster.machines[1].call(Target.tasks), "the nap is over")


def test_a_deadline_ends_waiting_for_a_machine(cluster: Cluster) -> None:
    machine: Machine = cluster.machine
    begin = time.monotonic()
    with bigmachine.deadline(0.1), pytest.raises(DeadlineExceeded):
        machine.wait(bigmachine.State.STOPPED)
    with pytest.raises(DeadlineExceeded):
        machine.wait(bigmachine.State.STOPPED, timeout=0.1)
    assert 0.19 < time.monotonic() - begin < 0.2 + 2 * LATE
