"""How an owned machine comes up, is kept alive, and ends; mostly on days when something else fails."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import pytest

from bigmachine import Machine, State
from bigmachine.errors import Cause, DeathCertificate, InvalidCall, MachineStopped, NetworkError, ProvisionError
from bigmachine.machine import Phase, owned
from bigmachine.session import Session
from bigmachine.session.order import Order
from bigmachine.system import Keepalive
from tests.unit.inside import QUICK, Echo, echo_of, eventually, inside
from tests.unit.machine.odd_system import OddSystem, fail_with, never


@pytest.fixture
def odd() -> OddSystem:
    return OddSystem()


@pytest.fixture
def session(odd: OddSystem) -> Iterator[Session]:
    with inside(odd) as (_, session):
        yield session


def stopped(machine: Machine) -> MachineStopped:
    machine.wait(State.STOPPED, 10)
    assert isinstance(machine.error, MachineStopped)
    return machine.error


class Ordered:
    """Notes which of several was initialised when."""

    order: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    async def init(self, session: object) -> None:
        await asyncio.sleep(0)
        Ordered.order.append(self.name)


class Held:
    """Its `init` lasts until the test lets it end; counted."""

    begun = threading.Event()
    may_end = threading.Event()
    inits: ClassVar[list[object]] = []

    def init(self, session: object) -> None:
        Held.inits.append(self)
        Held.begun.set()
        assert Held.may_end.wait(10)


class FailsWith:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def init(self, session: object) -> None:
        raise self.error


def _refuse_to_be_rebuilt() -> None:
    raise ModuleNotFoundError("No module named 'only_on_the_driver'")


class NotThere:
    """Can be pickled, and not be rebuilt."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_refuse_to_be_rebuilt, ())


@pytest.fixture
def held() -> Iterator[None]:
    Held.begun.clear()
    Held.may_end.clear()
    Held.inits.clear()
    yield
    Held.may_end.set()


# coming up


def test_services_are_installed_in_the_order_in_which_they_are_given(session: Session) -> None:
    Ordered.order.clear()
    (machine,) = session.start(services={name: Ordered(name) for name in "bdac"})
    machine.wait(State.RUNNING, 10)
    assert Ordered.order == ["b", "d", "a", "c"]


@pytest.mark.parametrize("error", [ProvisionError("no processes left"), OSError(11, "fork failed"), InvalidCall("odd")])
def test_a_machine_that_cannot_be_launched_stops_with_the_agents_reason(
    odd: OddSystem, session: Session, error: Exception
) -> None:
    odd.on_launch = fail_with(error)
    (machine,) = session.start(services=[Echo()])
    reason = stopped(machine)
    assert reason.certificate.cause == Cause.BOOT_FAILED
    assert "could not launch" in reason.certificate.detail
    assert type(reason.__cause__) is type(error)


def test_a_service_that_cannot_be_rebuilt_fails_the_boot_at_once_and_is_named(odd: OddSystem, session: Session) -> None:
    begin = time.monotonic()
    (machine,) = session.start(services={"fine": Echo(), "gone": NotThere()})
    reason = stopped(machine)
    assert time.monotonic() - begin < 1
    assert reason.certificate.cause == Cause.BOOT_FAILED
    assert "service 'gone' could not be registered" in str(reason)
    assert "only_on_the_driver" in str(reason)
    eventually(lambda: not odd.machines(), "a machine that did not come up goes on")


@pytest.mark.parametrize(
    "error",
    [
        LookupError("no data"),
        InvalidCall("raised in init"),
        NetworkError("another machine was out of reach"),
        MachineStopped(DeathCertificate(Cause.OOM, "m77")),
    ],
)
def test_an_init_that_raises_stops_the_machine_with_that_whatever_it_raises(
    odd: OddSystem, session: Session, error: Exception
) -> None:
    begin = time.monotonic()
    (machine,) = session.start(services={"S": FailsWith(error)})
    reason = stopped(machine)
    assert time.monotonic() - begin < 1
    assert reason.certificate.cause == Cause.INIT_FAILED
    assert reason.certificate.machine == "m1"
    assert type(reason.__cause__) is type(error)
    assert "service 'S'" in reason.certificate.detail
    eventually(lambda: not odd.machines(), "a machine whose init failed goes on")


def test_an_init_survives_a_lost_connection_and_runs_once(
    session: Session, held: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned, "_VERDICT", 0.02)
    (machine,) = session.start(services=[Held(), Echo()])
    assert Held.begun.wait(10)
    link, broken = machine._program, machine._program.main
    assert broken is not None
    link.reactor.post(broken.abort, NetworkError("the cable was pulled"))
    eventually(lambda: link.main is not broken, "the connection is not broken")
    Held.may_end.set()
    machine.wait(State.RUNNING, 10)
    assert len(Held.inits) == 1
    assert machine.call(Echo.same, 1) == 1


def test_a_program_that_is_out_of_reach_again_and_again_fails_the_boot(
    odd: OddSystem, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned, "_VERDICT", 0.01)
    odd.unreachable[f"{odd.agent_id}-m1"] = NetworkError("no route to host")
    (machine,) = session.start(services=[Echo()])
    reason = stopped(machine)
    assert reason.certificate.cause == Cause.BOOT_FAILED
    assert "no route to host" in str(reason)
    assert odd.dials.count(f"{odd.agent_id}-m1") == owned._ATTEMPTS


def test_its_lease_runs_while_an_init_takes_longer_than_that(held: None) -> None:
    with inside(OddSystem(Keepalive(interval=0.02, timeout=5.0, lease=0.1))) as (_, session):
        (machine,) = session.start(services=[Held()])
        assert Held.begun.wait(10)
        eventually(lambda: len(machine.keepalive_reply_times()) >= 6, "no keepalives while it starts")
        assert machine.state is State.STARTING
        Held.may_end.set()
        machine.wait(State.RUNNING, 10)


# kept alive


def test_a_machine_whose_keepalives_are_not_answered_is_lost() -> None:
    odd = OddSystem(QUICK)
    with inside(odd) as (_, session):
        (machine,) = session.start(services=[Echo()])
        machine.wait(State.RUNNING, 10)
        call = machine.submit(Echo.wait)
        echo = echo_of(odd)
        assert echo.begun.wait(10)
        odd.keepalive = Keepalive()  # its lease is not what ends it
        odd.machines()[0].renew(60.0)
        odd.on_keepalive = never
        reason = stopped(machine)
        assert reason.certificate.cause == Cause.KEEPALIVE_LOST
        assert "no keepalive was answered for 0." in reason.certificate.detail
        assert isinstance(call.exception(10), MachineStopped)
        eventually(lambda: not odd.machines(), "its agent is not told")
        echo.may_end.set()


def test_a_few_failed_keepalives_are_no_harm() -> None:
    odd = OddSystem(Keepalive(interval=0.01, timeout=5.0, lease=5.0))
    with inside(odd) as (_, session):
        odd.on_keepalive = fail_with(NetworkError("one"), InvalidCall("two"))
        (machine,) = session.start(services=[Echo()])
        eventually(lambda: len(machine.keepalive_reply_times()) >= 3, "it is not kept alive any more")
        assert machine.wait(State.RUNNING, 10) is State.RUNNING


def test_answers_of_a_crowded_host_are_waited_for() -> None:
    odd = OddSystem(Keepalive(interval=0.02, timeout=2.0, lease=10.0))
    with inside(odd) as (_, session):
        odd.on_keepalive = partial(asyncio.sleep, 0.7)  # a call that was given up earlier would never be answered
        (machine,) = session.start(services=[Echo()])
        eventually(lambda: len(machine.keepalive_reply_times()) >= 2, "no keepalive is answered")
        assert machine.wait(State.RUNNING, 10) is State.RUNNING


def test_a_machine_whose_driver_falls_silent_ends_itself() -> None:
    odd = OddSystem(Keepalive(interval=0.02, timeout=5.0, lease=0.1))
    with inside(odd) as (_, session):
        (machine,) = session.start(services=[Echo()])
        machine.wait(State.RUNNING, 10)
        for task in machine._keeper._tasks:  # type: ignore[union-attr]  # the driver stops sending keepalives
            session._reactor.post(task.cancel)
        reason = stopped(machine)
        assert reason.certificate.cause == Cause.LEASE_EXPIRED
        assert "0.1 s" in reason.certificate.detail


def test_a_machine_that_is_never_kept_alive_ends_itself() -> None:
    odd = OddSystem(Keepalive(interval=0.02, timeout=5.0, lease=0.1))
    odd.on_keepalive = never
    with inside(odd) as (_, session):
        (machine,) = session.start(services=[Echo()])
        assert stopped(machine).certificate.cause == Cause.LEASE_EXPIRED


def test_a_host_that_gets_short_of_memory_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    odd = OddSystem(Keepalive(interval=0.01, timeout=5.0, lease=5.0))
    with inside(odd) as (_, session):
        one, other = session.start(2, services=[Echo()])
        eventually(lambda: one.keepalive_reply_times() and other.keepalive_reply_times(), "no keepalives")
        assert not caplog.records
        odd.healthy = False
        eventually(lambda: caplog.records, "nothing is logged")
        before = len(one.keepalive_reply_times())
        assert before < 10
        eventually(lambda: len(one.keepalive_reply_times()) == 10, "it is not kept alive any more")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"the host of agent {odd.agent_id}" in caplog.text


def test_a_machine_ends_when_it_is_too_old_however_well_it_is_kept() -> None:
    odd = OddSystem(Keepalive(interval=0.02, timeout=5.0, lease=5.0, max_life=0.1))
    with inside(odd) as (_, session):
        begin = time.monotonic()
        (machine,) = session.start(services=[Echo()])
        assert machine.wait(State.RUNNING, 10) is State.RUNNING
        reason = stopped(machine)
        assert time.monotonic() - begin >= 0.1
        assert "it reached its maximum life, 0.1 s" in reason.certificate.detail
        eventually(lambda: not odd.machines(), "its agent is not told")


def test_a_lost_agent_means_lost_machines(odd: OddSystem, session: Session) -> None:
    first, second = session.start(2, services=[Echo()])
    first.wait(State.RUNNING, 10)
    second.wait(State.RUNNING, 10)
    call = first.submit(Echo.sleep, 60.0)
    odd.go_away()
    for machine in (first, second):
        assert stopped(machine).certificate.cause == Cause.AGENT_LOST
        assert stopped(machine).certificate.machine == machine.name
    assert isinstance(call.exception(10), MachineStopped)


# the end


def test_a_machine_that_is_shut_down_while_it_is_launched_ends_as_asked(odd: OddSystem, session: Session) -> None:
    may_launch = asyncio.Event()
    odd.on_launch = may_launch.wait
    (machine,) = session.start(services=[Echo()])
    ending = threading.Thread(target=machine.shutdown)
    ending.start()
    eventually(lambda: machine.phase is Phase.REACHING, "the launch does not begin")
    session._reactor.post(may_launch.set)
    ending.join(10)
    assert stopped(machine).certificate.cause == Cause.SHUTDOWN
    assert odd.machines() == []


def test_an_agent_that_does_not_answer_is_waited_for_no_longer_than_asked(odd: OddSystem, session: Session) -> None:
    (machine,) = session.start(services=[Echo()])
    machine.wait(State.RUNNING, 10)
    odd.on_shutdown = never
    begin = time.monotonic()
    machine.shutdown(0.1)
    assert 0.1 <= time.monotonic() - begin < 5
    reason = stopped(machine)
    assert reason.certificate.cause == Cause.AGENT_LOST
    assert "did not answer within 0.1 s" in str(reason)
    odd.on_shutdown = None


def test_a_launch_that_never_ends_does_not_hold_a_shutdown_up(odd: OddSystem, session: Session) -> None:
    odd.on_launch = never
    (machine,) = session.start(services=[Echo()])
    begin = time.monotonic()
    machine.shutdown(0.1)
    assert time.monotonic() - begin < 5
    assert stopped(machine).certificate.cause == Cause.AGENT_LOST


def test_a_machine_that_was_never_begun_is_simply_over(session: Session, odd: OddSystem) -> None:
    (machine,) = session.start(services=[Echo()])
    place = session._places[machine]
    owner = session._place(odd, session._authority, place, order_of(session), None)  # type: ignore[arg-type]  # it is a driver's
    session.shutdown()
    assert stopped(owner.machine).certificate.cause == Cause.SHUTDOWN
    owner.begin()
    assert owner.machine.state is State.STOPPED


def order_of(session: Session) -> Order:
    assert session._entry is not None
    return Order.take([Echo()], None, None, None, session._entry)
