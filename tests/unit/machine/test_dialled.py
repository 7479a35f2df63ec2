"""A handle on somebody else's machine: it follows that machine's life, and does not touch it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from bigmachine import Machine, State
from bigmachine.errors import (
    AuthenticationError,
    Cause,
    DeadlineExceeded,
    InvalidCall,
    MachineStopped,
    NetworkError,
)
from bigmachine.machine import Phase, dialled
from bigmachine.rpc import PeerFull
from bigmachine.session import Session
from bigmachine.system import Keepalive
from tests.unit.inside import Echo, echo_of, eventually, inside
from tests.unit.machine.odd_system import OddSystem, fail_with, never


class Slow:
    begun = threading.Event()
    may_end = threading.Event()

    def init(self, session: object) -> None:
        Slow.begun.set()
        assert Slow.may_end.wait(10)

    def same(self, value: object) -> object:
        return value


@pytest.fixture
def odd() -> OddSystem:
    return OddSystem(Keepalive(interval=0.02, timeout=5.0, lease=5.0))


@pytest.fixture
def session(odd: OddSystem) -> Iterator[Session]:
    with inside(odd) as (_, session):
        yield session


@pytest.fixture
def owned(session: Session) -> list[Machine]:
    machines = session.start(2, services=[Echo()])
    for machine in machines:
        machine.wait(State.RUNNING, 10)
    return machines


@pytest.fixture
def guest(odd: OddSystem, owned: list[Machine]) -> Session:
    """The session that services see on the first machine."""
    guest = odd.machines()[0].server.session
    assert isinstance(guest, Session)
    return guest


@pytest.fixture
def handle(guest: Session, owned: list[Machine]) -> Machine:
    """The first machine's handle on the second."""
    handle = guest.dial(owned[1].address)
    handle.wait(State.RUNNING, 10)
    return handle


def stopped(machine: Machine) -> MachineStopped:
    machine.wait(State.STOPPED, 10)
    assert isinstance(machine.error, MachineStopped)
    return machine.error


def test_it_is_not_owned_and_can_be_called(handle: Machine) -> None:
    assert handle.owned is False
    assert handle.call(Echo.same, 3) == 3
    assert handle.call("Supervisor.ping", 4) == 4
    assert handle.mem_info().total > 0


def test_the_machine_is_told_who_calls(handle: Machine, owned: list[Machine]) -> None:
    assert handle.call(Echo.caller) == owned[0].machine_id
    assert owned[1].call(Echo.caller) == "driver"


def test_it_learns_what_it_stands_for(session: Session, odd: OddSystem, guest: Session) -> None:
    odd.maxprocs = 7
    (machine,) = session.start(services=[Echo()])
    machine.wait(State.RUNNING, 10)
    handle = guest.dial(machine.address)
    handle.wait(State.RUNNING, 10)
    assert (handle.hostname, handle.maxprocs) == (machine.hostname, 7)


def test_there_is_one_handle_an_address_however_that_is_written(guest: Session, owned: list[Machine]) -> None:
    address = owned[1].address
    handle = guest.dial(address)
    assert guest.dial(address) is handle
    assert guest.dial(address.replace("inprocess:0", "elsewhere:0")) is handle
    assert guest.machines() == [handle]


def test_dialling_ones_own_machine_gives_its_own_handle(session: Session, owned: list[Machine]) -> None:
    assert session.dial(owned[0].address) is owned[0]


@pytest.mark.parametrize("address", ["", "127.0.0.1:80", "m1", None])
def test_a_malformed_address_is_refused(session: Session, address: str) -> None:
    with pytest.raises(InvalidCall, match="is no machine's address"):
        session.dial(address)


def test_a_machine_inside_another_process_is_out_of_reach(session: Session) -> None:
    with pytest.raises(InvalidCall, match="is inside another process"):
        session.dial("inprocess:0/iffffff-m1")


def test_only_the_owner_shuts_a_machine_down(handle: Machine, owned: list[Machine]) -> None:
    with pytest.raises(InvalidCall, match="only its owner may shut it down"):
        handle.shutdown()
    with pytest.raises(AuthenticationError, match="only the driver"):
        handle.call("Supervisor.shutdown")
    with pytest.raises(AuthenticationError, match="only the driver"):
        handle.call("Supervisor.register", "Other", Echo())
    assert owned[1].state is State.RUNNING


def test_cancel_lets_go_of_the_machine_and_leaves_it_running(
    handle: Machine, guest: Session, owned: list[Machine]
) -> None:
    handle.cancel()
    assert stopped(handle).certificate.cause == Cause.CANCELLED
    assert guest.machines() == []
    assert owned[1].call(Echo.same, 1) == 1
    again = guest.dial(owned[1].address)
    assert again is not handle
    assert again.call(Echo.same, 2) == 2


def test_it_stops_with_the_machine_and_for_its_reason(handle: Machine, owned: list[Machine], odd: OddSystem) -> None:
    echo = echo_of(odd, 1)
    call = handle.submit(Echo.wait)
    assert echo.begun.wait(10)
    odd.kill(owned[1])
    assert stopped(handle).certificate.cause == Cause.SIGNAL
    assert isinstance(call.exception(10), MachineStopped)
    echo.may_end.set()


def test_it_is_told_of_an_end_that_it_did_not_see(
    handle: Machine, owned: list[Machine], odd: OddSystem, guest: Session
) -> None:
    owned[1].shutdown()
    late = guest.dial(owned[1].address)
    assert stopped(late).certificate.cause == Cause.SHUTDOWN
    with pytest.raises(MachineStopped):
        late.call(Echo.same)


def test_calls_wait_for_a_machine_that_is_still_starting(session: Session, guest: Session, odd: OddSystem) -> None:
    Slow.begun.clear()
    Slow.may_end.clear()
    (machine,) = session.start(services=[Echo(), Slow()])  # the first of them is there
    assert Slow.begun.wait(10)
    handle = guest.dial(machine.address)
    call = handle.submit(Slow.same, 5)
    eventually(lambda: machine.machine_id in odd.dials, "it is not dialled")
    with pytest.raises(DeadlineExceeded):
        call.result(0.02)
    assert handle.state is State.STARTING
    Slow.may_end.set()
    assert call.result(10) == 5
    assert handle.wait(State.RUNNING, 10) is State.RUNNING


def test_it_is_running_once_it_knows_what_it_stands_for(guest: Session, owned: list[Machine], odd: OddSystem) -> None:
    may_tell = asyncio.Event()
    odd.on_info = may_tell.wait
    handle = guest.dial(owned[1].address)
    with pytest.raises(DeadlineExceeded):
        handle.wait(State.RUNNING, 0.05)
    guest._reactor.post(may_tell.set)
    assert handle.wait(State.RUNNING, 10) is State.RUNNING
    assert handle.hostname == owned[1].hostname


def test_a_handle_says_when_it_is_sent_whether_its_agent_has_it_yet(
    session: Session, odd: OddSystem, owned: list[Machine]
) -> None:
    odd.on_launch = never
    (machine,) = session.start(services=[Echo()])
    eventually(lambda: machine.phase is Phase.REACHING, "its launch does not begin")
    (_, old), (_, young) = owned[0].__reduce__(), machine.__reduce__()
    assert isinstance(old, tuple)
    assert isinstance(young, tuple)
    assert (old[-1], young[-1]) == (False, True)
    machine.cancel()


def test_an_address_that_nobody_has_fails_at_once(guest: Session, odd: OddSystem) -> None:
    begin = time.monotonic()
    handle = guest.dial(f"inprocess:0/{odd.agent_id}-m99")
    with pytest.raises(MachineStopped, match="does not have it"):
        handle.call(Echo.same)
    assert time.monotonic() - begin < 1
    assert stopped(handle).certificate.cause == Cause.AGENT_LOST


def test_a_young_machine_is_waited_for(guest: Session, session: Session, odd: OddSystem) -> None:
    odd.on_launch = never
    (machine,) = session.start(services=[Echo()])
    young = guest._receive(machine.address, machine.hostname, 1, is_young=True)
    call = young.submit(Echo.same, 6)
    eventually(lambda: odd.dials.count(machine.machine_id) >= 3, "it is not tried again")
    assert young.state is State.STARTING
    assert odd._ticket is not None
    spec = machine._keeper._spec  # type: ignore[union-attr]  # an Owner
    odd._ticket.reactor.post(odd.add, spec)
    eventually(lambda: machine.machine_id in odd._machines, "it is not there")
    link = session._links.to_program(machine._address, by_value=False)
    link.submit("Supervisor.register", ("Echo", Echo()), {}, is_urgent=True).result(10)
    assert call.result(10) == 6
    link.close(NetworkError("over"))
    machine.cancel()


def test_calls_do_not_wait_for_a_machine_that_says_it_takes_no_connection(
    guest: Session, owned: list[Machine], odd: OddSystem
) -> None:
    odd.unreachable[owned[1].machine_id] = PeerFull("m2 has no file descriptor free")
    handle = guest.dial(owned[1].address)
    begin = time.monotonic()
    with pytest.raises(NetworkError, match="no file descriptor free"):
        handle.call(Echo.same, 1)
    assert time.monotonic() - begin < 2
    assert handle.state is State.STARTING
    del odd.unreachable[owned[1].machine_id]
    assert handle.wait(State.RUNNING, 10) is State.RUNNING
    assert handle.call(Echo.same, 2) == 2


def test_calls_wait_for_a_machine_that_breaks_connections_as_long_as_the_clocks_allow(
    guest: Session, owned: list[Machine], odd: OddSystem
) -> None:
    guest._keepalive = Keepalive(interval=0.02, timeout=0.3, lease=5.0)
    odd.unreachable[owned[1].machine_id] = NetworkError("the connection was reset")
    handle = guest.dial(owned[1].address)
    begin = time.monotonic()
    with pytest.raises(NetworkError, match="was reset"):
        handle.call(Echo.same, 1)
    assert 0.3 <= time.monotonic() - begin < 5
    del odd.unreachable[owned[1].machine_id]
    assert handle.call(Echo.same, 2) == 2


def test_calls_wait_for_a_program_that_is_still_on_its_way(
    guest: Session, owned: list[Machine], odd: OddSystem
) -> None:
    guest._keepalive = Keepalive(interval=0.02, timeout=0.1, lease=5.0)
    late = NetworkError("nobody took the connection up in time")
    late.__cause__ = TimeoutError()
    odd.unreachable[owned[1].machine_id] = late
    handle = guest.dial(owned[1].address)
    call = handle.submit(Echo.same, 1)
    time.sleep(0.5)  # the claim is that nothing happens
    assert not call.done()
    del odd.unreachable[owned[1].machine_id]
    assert call.result(10) == 1


def test_a_few_unanswered_pings_are_no_harm(guest: Session, owned: list[Machine], odd: OddSystem) -> None:
    odd.on_info = fail_with(NetworkError("one"), NetworkError("two"))
    handle = guest.dial(owned[1].address)
    eventually(lambda: len(handle.keepalive_reply_times()) >= 2, "no ping was answered")
    assert handle.wait(State.RUNNING, 10) is State.RUNNING


def test_a_silent_agent_means_a_lost_machine(odd: OddSystem, guest: Session, owned: list[Machine]) -> None:
    guest._keepalive = Keepalive(interval=0.02, timeout=0.1, lease=5.0)
    odd.on_info = never
    handle = guest.dial(owned[1].address)
    reason = stopped(handle)
    assert reason.certificate.cause == Cause.KEEPALIVE_LOST
    assert "no ping was answered for" in str(reason)
    assert owned[1].state is State.RUNNING


def test_a_lost_agent_is_a_lost_machine(odd: OddSystem, handle: Machine) -> None:
    call = handle.submit(Echo.sleep, 60.0)
    odd.go_away()
    assert stopped(handle).certificate.cause == Cause.AGENT_LOST
    assert isinstance(call.exception(10), MachineStopped)


def test_a_lost_connection_to_a_machine_that_lives_is_an_error_of_the_network(
    handle: Machine, odd: OddSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialled, "_VERDICT", 0.02)
    echo = echo_of(odd, 1)
    call = handle.submit(Echo.wait)
    assert echo.begun.wait(10)
    link = handle._program
    assert link.main is not None
    link.reactor.post(link.main.abort, NetworkError("the cable was pulled"))
    error = call.exception(10)
    assert isinstance(error, NetworkError)
    assert error.temporary
    assert handle.state is State.RUNNING
    assert handle.call(Echo.same, 8) == 8
    echo.may_end.set()


def test_the_end_of_the_machine_that_dialled_is_the_handles_end(
    handle: Machine, owned: list[Machine], odd: OddSystem
) -> None:
    odd.kill(owned[0])
    assert stopped(handle).certificate.cause == Cause.SHUTDOWN
    assert owned[1].call(Echo.same, 1) == 1


def test_a_machines_session_lets_go_and_ends_nothing(handle: Machine, guest: Session, owned: list[Machine]) -> None:
    guest.shutdown()
    assert stopped(handle).certificate.cause == Cause.SHUTDOWN
    assert [machine.call(Echo.same, 1) for machine in owned] == [1, 1]


def test_a_machines_session_starts_nothing_and_signs_nothing(guest: Session) -> None:
    assert guest.is_driver is False
    assert guest.system is None
    with pytest.raises(InvalidCall, match="a machine cannot start machines"):
        guest.start(services=[Echo()])
    with pytest.raises(InvalidCall, match="only the driver can sign"):
        guest.write_credentials("/nowhere")
    assert "on i" in repr(guest)
