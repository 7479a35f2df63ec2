"""Machines come and go at any time, from any thread, many at once."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import bigmachine
from bigmachine import BigmachineError, Machine, MachineStopped, NetworkError, Session, State
from bigmachine.errors import Cause
from bigmachine.system import Launched, Ticket
from bigmachine.systems.local import LocalSystem
from tests.cluster.processes import below, wait_for

#: On two cores that do much else besides.
LIMIT = 60.0


class Counter:
    """Counts its calls, from where its `init` left it."""

    def __init__(self) -> None:
        self.n = 0

    def init(self, session: object) -> None:
        self.n = 100

    def next(self) -> int:
        self.n += 1
        return self.n

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def note(self, path: str, seconds: float) -> int:
        """Leave a line in a file, which outlives the process."""
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        return os.getpid()


class Picky:
    """Its `init` fails on machines with an even number."""

    def init(self, session: Session) -> None:
        number = int(session._identity.id.rpartition("-m")[2])
        if number % 2 == 0:
            raise ValueError(f"machine {number} will not do")

    def echo(self, value: int) -> int:
        return value


class ScarceSystem(LocalSystem):
    """Has fewer places than are asked for."""

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        return super().launch(min(n, 2), ticket)


def started(session: Session, n: int = 1) -> list[Machine]:
    return session.start(n, services=[Counter()])


def test_two_hundred_machines_answer_and_nothing_is_left() -> None:
    before = set(below(os.getpid()))
    began = time.monotonic()
    with bigmachine.start(LocalSystem(), output="off") as session:
        machines = started(session, 200)
        calls = [machine.submit(Counter.next) for machine in machines]
        assert [call.result(LIMIT) for call in calls] == [101] * 200
        assert time.monotonic() - began < LIMIT
        assert all(machine.state is State.RUNNING for machine in machines)
    assert {machine.state for machine in machines} == {State.STOPPED}
    wait_for(lambda: set(below(os.getpid())) <= before, "no process is left")


def test_machines_start_and_end_from_several_threads_at_once() -> None:
    with bigmachine.start(LocalSystem(), output="off") as session, ThreadPoolExecutor(8) as pool:

        def come_and_go(seed: int) -> int:
            done = 0
            for _ in range(4):
                machines = started(session, random.Random(seed).randrange(1, 4))
                for machine in machines:
                    assert machine.call(Counter.next) == 101
                    machine.shutdown()
                    assert machine.state is State.STOPPED
                    done += 1
            return done

        stays = started(session)[0]
        assert sum(pool.map(come_and_go, range(8), timeout=LIMIT)) >= 32
        assert stays.call(Counter.next) == 101
        assert session.machines() == [stays]


def test_machines_start_and_end_from_async_code() -> None:
    async def come_and_go(session: Session) -> None:
        [machine] = await asyncio.to_thread(started, session)
        assert await machine.submit(Counter.next) == 101
        await asyncio.to_thread(machine.shutdown)
        assert machine.state is State.STOPPED

    async def main(session: Session) -> None:
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*(come_and_go(session) for _ in range(10)))

    with bigmachine.start(LocalSystem(), output="off") as session:
        asyncio.run(main(session))
        assert session.machines() == []


def test_a_system_that_has_fewer_places_gives_what_it_has_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with bigmachine.start(ScarceSystem(), output="off") as session, caplog.at_level(logging.WARNING, "bigmachine"):
        machines = started(session, 5)
        assert [machine.call(Counter.next) for machine in machines] == [101, 101]
    [told] = [record.getMessage() for record in caplog.records if "5" in record.getMessage()]
    assert "started 2 of 5 machines" in told


def test_machines_whose_init_fails_stop_with_that_cause_and_the_others_run() -> None:
    with bigmachine.start(LocalSystem(), output="off") as session:
        machines = session.start(6, services=[Picky()])
        odd, even = machines[::2], machines[1::2]
        assert [machine.call(Picky.echo, 7) for machine in odd] == [7, 7, 7]
        for machine in even:
            with pytest.raises(MachineStopped) as info:
                machine.wait(timeout=LIMIT)
            assert info.value.certificate.cause == Cause.INIT_FAILED
            assert isinstance(info.value.__cause__, ValueError)


def test_a_machine_that_is_cancelled_during_its_start_is_gone_at_once() -> None:
    with bigmachine.start(LocalSystem(), output="off") as session:
        session.start(1, services=[Counter()])[0].call(Counter.next)
        there = len(below(os.getpid()))
        for machine in started(session, 10):
            machine.cancel()
            with pytest.raises(MachineStopped) as info:
                machine.call(Counter.next)
            assert info.value.certificate.cause == Cause.CANCELLED
        wait_for(lambda: len(below(os.getpid())) <= there, "their processes are gone")


def test_a_start_while_the_session_is_shut_down_says_so() -> None:
    session = bigmachine.start(LocalSystem(), output="off")
    started(session)[0].wait()
    outcomes: list[BaseException] = []

    def keep_starting() -> None:
        try:
            while True:
                started(session)
        except BaseException as error:  # noqa: BLE001 (which one it is, is the question)
            outcomes.append(error)

    threads = [threading.Thread(target=keep_starting) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    session.shutdown()
    for thread in threads:
        thread.join(LIMIT)
    assert [isinstance(error, BigmachineError) and "shut down" in str(error) for error in outcomes] == [True] * 4
    assert session.machines() == []


def test_a_program_that_is_started_anew_has_its_services_again() -> None:
    with bigmachine.start(LocalSystem(), output="off") as session:
        [machine] = started(session)
        assert [machine.call(Counter.next), machine.call(Counter.next)] == [101, 102]
        before = machine.call("Supervisor.getpid")
        under_way = machine.submit(Counter.sleep, 30.0)
        time.sleep(0.1)
        machine.call("Supervisor.exec")
        began = time.monotonic()
        with pytest.raises(NetworkError):
            under_way.result(LIMIT)
        assert time.monotonic() - began < 1.0
        assert machine.call(Counter.next) == 101
        assert machine.call("Supervisor.getpid") != before
        assert machine.state is State.RUNNING


def _has_lines(path: Path, number: int) -> bool:
    return path.exists() and len(path.read_text().split()) == number


def test_a_call_that_is_repeated_is_not_begun_by_the_process_that_replaced_the_first(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with bigmachine.start(LocalSystem(), output="off") as session, ThreadPoolExecutor(1) as pool:
        [machine] = started(session)
        for number in (1, 2):  # what the first process began is known to the second one, and to the third
            under_way = pool.submit(machine.retry_call, Counter.note, str(notes), 30.0)
            wait_for(partial(_has_lines, notes, number), "it runs")
            machine.call("Supervisor.exec")
            error = under_way.exception(LIMIT)
            assert isinstance(error, NetworkError)
            assert not error.temporary
            assert f"was begun on {machine.name} by a process that another one has replaced" in str(error)
            assert isinstance(error.__cause__, NetworkError)
            assert error.__cause__.temporary
        pid = machine.retry_call(Counter.note, str(notes), 0.0)
        assert pid == machine.call("Supervisor.getpid")
        assert len(notes.read_text().split()) == 3


def test_starting_anew_again_and_again_and_a_shutdown_in_between() -> None:
    with bigmachine.start(LocalSystem(), output="off") as session, ThreadPoolExecutor(4) as pool:
        [machine] = started(session)
        machine.wait()
        list(pool.map(lambda _: machine.call("Supervisor.exec"), range(8), timeout=LIMIT))
        assert machine.retry_call(Counter.next) == 101
        under_way = machine.submit("Supervisor.exec")
        began = time.monotonic()
        machine.shutdown()
        assert time.monotonic() - began < 10.0
        assert isinstance(machine.error, MachineStopped)
        assert machine.error.certificate.cause == Cause.SHUTDOWN
        under_way.exception(LIMIT)
