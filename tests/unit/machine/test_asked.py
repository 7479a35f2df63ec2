"""What a machine's agent is asked waits for the machine's launch, and ends with the machine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from bigmachine import DeadlineExceeded, Machine, MachineStopped, deadline
from bigmachine.errors import DeathCertificate, InvalidCall
from bigmachine.machine.asked import Asked
from bigmachine.session import Session
from tests.unit.inside import Echo
from tests.unit.rpc.ends import PATIENCE, Ends, memory, until


class Supervisor:
    """Counts who came."""

    def __init__(self) -> None:
        self.came: list[object] = []
        self.gone: list[object] = []

    async def ping(self, value: object) -> object:
        self.came.append(value)
        return value

    async def hold(self, value: object) -> None:
        self.came.append(value)
        try:
            await asyncio.sleep(60)
        finally:
            self.gone.append(value)


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor()


@pytest.fixture
def ends(supervisor: Supervisor) -> Iterator[Ends]:
    with memory({"S": supervisor}) as ends:
        yield ends


@pytest.fixture
def asked(ends: Ends) -> Asked:
    return Asked(ends.link)


def stopped() -> MachineStopped:
    return MachineStopped(DeathCertificate("shutdown", "m1"))


def test_a_call_before_the_launch_waits_for_it(asked: Asked, ends: Ends, supervisor: Supervisor) -> None:
    calls = [asked.submit("S.ping", (number,), {}) for number in range(3)]
    ends.on_link(lambda: None)
    assert supervisor.came == []
    asked.open()
    assert [call.result(PATIENCE) for call in calls] == [0, 1, 2]
    assert asked.submit("S.ping", (3,), {}).result(PATIENCE) == 3
    assert supervisor.came == [0, 1, 2, 3]


def test_an_error_before_the_launch_is_told_after_it(asked: Asked) -> None:
    calls = [asked.submit("S.nothing", (), {}), asked.submit("S.ping", (threading.Lock(),), {})]
    asked.open()
    for call, words in zip(calls, ("no public method 'nothing'", "cannot be pickled"), strict=True):
        with pytest.raises(InvalidCall, match=words):
            call.result(PATIENCE)


@pytest.mark.parametrize("is_open", [False, True])
def test_calls_fail_when_the_machine_stops(asked: Asked, supervisor: Supervisor, is_open: bool) -> None:
    if is_open:
        asked.open()
    calls = [asked.submit("S.hold", (number,), {}) for number in range(2)]
    if is_open:
        until(lambda: len(supervisor.came) == 2)
    asked.close(stopped)
    until(lambda: len(supervisor.gone) == len(supervisor.came))
    errors = [call.exception(PATIENCE) for call in calls]
    assert [type(error) for error in errors] == [MachineStopped] * 2
    assert errors[0] is not errors[1]  # each has a traceback of its own
    assert isinstance(asked.submit("S.ping", (1,), {}).exception(PATIENCE), MachineStopped)


def test_a_deadline_holds_before_the_launch(asked: Asked, supervisor: Supervisor) -> None:
    with deadline(0.05):
        call = asked.submit("S.ping", (1,), {})
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        call.result(PATIENCE)
    assert time.monotonic() - begin < PATIENCE / 2
    asked.open()
    assert asked.submit("S.ping", (2,), {}).result(PATIENCE) == 2
    assert supervisor.came == [2]


def test_a_deadline_goes_along_with_a_call_that_waited(asked: Asked, supervisor: Supervisor) -> None:
    with deadline(0.2):
        call = asked.submit("S.hold", (1,), {})
    asked.open()
    with pytest.raises(DeadlineExceeded):
        call.result(PATIENCE)
    until(lambda: supervisor.gone == [1])


@pytest.mark.parametrize("is_open", [False, True])
def test_a_call_that_is_given_up_is_not_made_or_ended(asked: Asked, supervisor: Supervisor, is_open: bool) -> None:
    call = asked.submit("S.hold", (1,), {})
    if is_open:
        asked.open()
        until(lambda: supervisor.came)
    assert call.cancel()
    with pytest.raises(CancelledError):
        call.result(PATIENCE)
    asked.open()
    assert asked.submit("S.ping", (2,), {}).result(PATIENCE) == 2
    until(lambda: supervisor.gone == supervisor.came[:-1])
    assert supervisor.came == ([1, 2] if is_open else [2])


def test_a_machine_can_be_asked_from_its_first_moment_on(session: Session) -> None:
    machines: list[Machine] = session.start(3, services=[Echo()])
    assert [machine.call("Supervisor.ping", machine.name) for machine in machines] == ["m1", "m2", "m3"]
