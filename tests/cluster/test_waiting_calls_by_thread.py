"""Calls of a lone waiting thread, which the machine serves by a thread of its own: each kind of method and of end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

import bigmachine
from bigmachine import Machine, NetworkError, State
from bigmachine.testing import inject_faults
from tests.cluster.fault_services import Target
from tests.cluster.processes import LIMIT, call_often, wait_for
from tests.cluster.waiting_services import Waited

BY_THREAD = "bigmachine-direct"


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Machine]]:
    with bigmachine.start() as session:
        machines = session.start(2, services=[Waited(), Target()])
        for machine in machines:
            machine.wait(State.RUNNING, LIMIT)
        yield machines


@pytest.fixture
def machine(machines: list[Machine]) -> Machine:
    use_thread(machines[0])
    return machines[0]


def use_thread(machine: Machine) -> None:
    """Call until a thread serves the calls."""
    call_often(machine)
    machine.call(Waited.where)
    wait_for(lambda: machine.call(Waited.where) == BY_THREAD, "a thread serves")


def test_every_kind_of_method_has_its_outcome(machine: Machine) -> None:
    for _ in range(100):
        assert machine.call(Waited.where) == BY_THREAD
        assert machine.call(Waited.where_async) != BY_THREAD
        with pytest.raises(KeyError, match="as asked"):
            machine.call(Waited.fail, "as asked")
    assert machine.call(Waited.size, 5_000_000) == bytes(5_000_000)
    assert list(machine.call(Waited.count, 1000)) == list(range(1000))
    assert list(machine.call(Waited.count_async, 1000)) == list(range(1000))
    assert machine.call(Waited.where) == BY_THREAD


def test_what_returns_much_leaves_the_thread_to_others_for_a_while(machine: Machine) -> None:
    many = 3_000_000
    machine.call(Waited.which_and_much, 10)  # a method is known once it was called
    machine.call(Waited.which)
    thread = machine.call(Waited.which)
    assert machine.call(Waited.which_and_much, many) == (thread, bytes(many))
    for _ in range(64):
        assert machine.call(Waited.which_and_much, 10)[0] != thread
        assert machine.call(Waited.which) == thread
    assert machine.call(Waited.which_and_much, 10)[0] == thread
    assert machine.call(Waited.which_and_much, 10)[0] == thread


def test_the_thread_serves_small_calls_while_much_is_on_its_way(machine: Machine) -> None:
    data = bytes(256 * 2**20)
    machine.call(Waited.take, data)  # the bulk lane is there
    machine.call(Waited.where)
    served: set[str] = set()
    for _ in range(20):
        under_way = machine.submit(Waited.take, data)
        while not under_way.done():
            served.add(machine.call(Waited.where))
        assert under_way.result(LIMIT) == len(data)
        if BY_THREAD in served:
            return
    pytest.fail(f"no call was served by the thread, but by {served}")


def test_a_method_that_calls_another_machine_has_its_outcome(machines: list[Machine], machine: Machine) -> None:
    for _ in range(200):
        assert machine.call(Waited.ask, machines[1]).startswith("bigmachine-")
        assert machine.call(Waited.where) == BY_THREAD


@pytest.mark.parametrize("is_further", [False, True], ids=["here", "there"])
def test_an_interrupt_reaches_the_method_and_those_it_waits_for(
    machines: list[Machine], machine: Machine, is_further: bool
) -> None:
    before, known = machine.call(Waited.seen)
    further, known_there = machines[1].call(Waited.seen)
    machine.call(Waited.where)

    def interrupt() -> None:
        wait_for(lambda: machine.submit(Waited.seen).result(LIMIT)[0] > before, "it has begun")
        if is_further:
            wait_for(lambda: machines[1].submit(Waited.seen).result(LIMIT)[0] > further, "it has begun there")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    begin = time.monotonic()
    call = partial(machine.call, Waited.hold_there, machines[1]) if is_further else partial(machine.call, Waited.hold)
    with pytest.raises(KeyboardInterrupt):
        call(LIMIT)
    assert time.monotonic() - begin < LIMIT / 2
    told = "CancelledError" if is_further else "hold"
    wait_for(lambda: machine.submit(Waited.seen).result(LIMIT)[1] == [*known, told], "the method is told")
    if is_further:
        wait_for(lambda: machines[1].submit(Waited.seen).result(LIMIT)[1] == [*known_there, "hold"], "and the other")
    use_thread(machine)


def test_a_link_that_is_cut_ends_the_call_and_is_made_again(machine: Machine) -> None:
    for _ in range(3):
        with inject_faults(machine, seed=1, cut=1.0), pytest.raises(NetworkError):
            machine.call(Waited.where)
        use_thread(machine)


def test_with_one_thread_for_methods_the_loop_serves() -> None:
    with bigmachine.start() as session:
        session._threads = 1  # as the flag for it sets it
        (machine,) = session.start(1, services=[Waited(), Target()])
        call_often(machine)
        for _ in range(20):
            assert machine.call(Waited.where).startswith("bigmachine-call-")
