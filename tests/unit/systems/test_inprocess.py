"""Machines inside the process: what a user's own tests do with them, and that they leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import bigmachine
from bigmachine import Keepalive, Machine, State
from bigmachine.errors import AuthenticationError, Cause, InvalidCall, MachineStopped, ProvisionError
from bigmachine.session import Session
from bigmachine.system import Ticket
from bigmachine.systems.inprocess import InprocessMachine, InprocessSystem
from tests.unit.inside import Echo, echo_of, eventually, inside


class Fails:
    def init(self, session: object) -> None:
        raise LookupError("no data here")


def reason(machine: Machine) -> MachineStopped:
    machine.wait(State.STOPPED, 10)
    assert isinstance(machine.error, MachineStopped)
    return machine.error


def running(session: Session, n: int) -> list[Machine]:
    machines = session.start(n, services=[Echo()])
    for machine in machines:
        machine.wait(State.RUNNING, 10)
    return machines


# what a test sees and does


def test_machines_are_listed_in_the_order_of_their_start(session: Session, system: InprocessSystem) -> None:
    handles = running(session, 3)
    seen = system.machines()
    assert [machine.address for machine in seen] == [handle.address for handle in handles]
    assert repr(seen[0]) == f"<InprocessMachine {handles[0].address}>"


def test_files_of_a_machines_host_are_those_of_this_one(session: Session, system: InprocessSystem) -> None:
    (machine,) = running(session, 1)
    with system.read(machine, __file__) as file:
        assert file.read() == Path(__file__).read_bytes()
    with pytest.raises(InvalidCall, match="'h1-m1' is none of this inprocess system's"):
        system.read(SimpleNamespace(machine_id="h1-m1"), __file__)


def test_a_test_looks_at_a_machines_services(session: Session, system: InprocessSystem) -> None:
    (machine,) = running(session, 1)
    machine.call(Echo.same, 1)
    machine.call(Echo.same, 2)
    assert echo_of(system).calls == 2
    assert system.machines()[0].service("Other") is None


def test_wait_returns_once_there_are_enough(session: Session, system: InprocessSystem) -> None:
    seen: list[InprocessMachine] = []
    waiting = threading.Thread(target=lambda: seen.extend(system.wait(3, 10)))
    waiting.start()
    session.start(2, services=[Echo()])
    system.wait(2, 10)
    assert waiting.is_alive()
    session.start(1, services=[Echo()])
    waiting.join(10)
    assert len(seen) == 3


def test_wait_ends_with_its_timeout(system: InprocessSystem) -> None:
    with pytest.raises(TimeoutError, match=r"0 machines after 0\.01 s, waiting for 1"):
        system.wait(1, 0.01)


def test_a_given_machine_is_killed_by_its_handle_or_as_it_is_seen(session: Session, system: InprocessSystem) -> None:
    one, other, third = running(session, 3)
    assert system.kill(other) is True
    assert [machine.address for machine in system.machines()] == [one.address, third.address]
    assert system.kill(system.machines()[1]) is True
    assert reason(other).certificate.cause == reason(third).certificate.cause == Cause.SIGNAL
    assert one.call(Echo.same, 1) == 1


def test_any_machine_is_killed_if_none_is_given(session: Session, system: InprocessSystem) -> None:
    running(session, 3)
    for left in (2, 1, 0):
        assert system.kill() is True
        assert len(system.machines()) == left
    assert system.kill() is False


def test_a_dead_machine_cannot_be_killed(session: Session, system: InprocessSystem) -> None:
    (machine,) = running(session, 1)
    system.kill(machine)
    assert system.kill(machine) is False
    assert InprocessSystem().kill() is False


def test_the_certificate_of_a_killed_machine_is_complete(session: Session, system: InprocessSystem) -> None:
    (machine,) = running(session, 1)
    system.kill(machine)
    certificate = reason(machine).certificate
    assert (certificate.cause, certificate.signal) == (Cause.SIGNAL, signal.SIGKILL)
    assert (certificate.machine, certificate.pid) == ("m1", os.getpid())
    assert certificate.lifetime is not None
    assert "it was killed by a test" in str(reason(machine))


def test_killing_one_machine_leaves_the_calls_of_others_alone(session: Session, system: InprocessSystem) -> None:
    one, other = running(session, 2)
    echo = echo_of(system, 1)
    call = other.submit(Echo.wait)
    assert echo.begun.wait(10)
    system.kill(one)
    reason(one)
    echo.may_end.set()
    assert call.result(10) is True


def test_async_methods_of_a_killed_machine_end(session: Session, system: InprocessSystem) -> None:
    (machine,) = running(session, 1)
    server = system.machines()[0].server
    echo = echo_of(system)
    machine.submit(Echo.sleep, 60.0)
    assert echo.begun.wait(10)
    system.kill(machine)
    reason(machine)
    eventually(lambda: not [t for t in tasks_of(session) if "sleep" in t], f"{tasks_of(session)}")
    eventually(lambda: not server.channels, "its connections are left")


def tasks_of(session: Session) -> list[str]:
    return [task.get_name() for task in list(session._reactor._tasks)]


def test_an_init_that_raises_ends_the_machine(session: Session, system: InprocessSystem) -> None:
    (machine,) = session.start(services=[Fails()])
    error = reason(machine)
    assert error.certificate.cause == Cause.INIT_FAILED
    assert isinstance(error.__cause__, LookupError)
    eventually(lambda: not system.machines(), "it goes on")


def test_its_processors_and_clocks_are_arguments() -> None:
    clocks = Keepalive(interval=1.0, lease=3.0)
    system = InprocessSystem(maxprocs=4, keepalive=clocks)
    with inside(system) as (_, session):
        (machine,) = running(session, 1)
        assert machine.maxprocs == 4
        eventually(lambda: machine.next_keepalive is not None, "it is not kept alive")
        assert 0 < (machine.next_keepalive or 0) <= 3.0


def test_its_clocks_may_be_set_before_the_first_start(session: Session, system: InprocessSystem) -> None:
    system.keepalive = Keepalive(interval=0.01, timeout=5.0, lease=0.2)
    (machine,) = running(session, 1)
    eventually(lambda: len(machine.keepalive_reply_times()) >= 5, "the interval is not the one that was set")


def test_without_keepalives_its_lease_runs_out(session: Session, system: InprocessSystem) -> None:
    system.keepalive = Keepalive(interval=30.0, timeout=30.0, lease=60.0)
    (machine,) = running(session, 1)
    eventually(machine.keepalive_reply_times, "it is not kept alive")
    machine.call("Supervisor.keepalive", 0.05)
    assert reason(machine).certificate.cause == Cause.LEASE_EXPIRED
    assert "nobody renewed its lease of 0.05 s" in str(machine.error)
    assert system.machines() == []


# the Supervisor


def test_the_supervisor_tells_about_this_process(session: Session) -> None:
    (machine,) = running(session, 1)
    assert machine.call("Supervisor.getpid") == os.getpid()
    info = machine.call("Supervisor.info")
    assert (info.pid, info.maxprocs, info.hostname) == (os.getpid(), 1, machine.hostname)
    assert info.python == ".".join(map(str, sys.version_info[:3]))
    assert machine.call("Supervisor.profiles") == []
    assert "inside the driver's process" in info.entry


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("set_args", [[]]),
        ("set_env", [{}]),
        ("set_image", [None]),
        ("exec", []),
        ("cpu_profile", [0.1]),
        ("profile", ["threads"]),
    ],
)
def test_what_would_change_or_stop_this_process_is_refused(
    session: Session, method: str, arguments: list[object]
) -> None:
    (machine,) = running(session, 1)
    with pytest.raises(InvalidCall, match="a machine inside the driver's process does not have"):
        machine.call(f"Supervisor.{method}", *arguments)


def test_a_machine_may_not_do_what_only_the_driver_may(session: Session, system: InprocessSystem) -> None:
    one, other = running(session, 2)
    guest = system.machines()[0].server.session
    assert isinstance(guest, Session)
    handle = guest.dial(other.address)
    for refused in ("Supervisor.shutdown", "Supervisor.keepalive", "Supervisor.register"):
        with pytest.raises(AuthenticationError, match="only the driver"):
            handle.call(refused)
    assert handle.call("Supervisor.ping", 1) == 1
    assert one.state is other.state is State.RUNNING


def test_why_machines_ended_is_remembered_for_a_bounded_number(
    session: Session, system: InprocessSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigmachine.systems.inprocess.system._REMEMBERED", 2)
    for machine in running(session, 4):
        machine.shutdown()
    assert system._table.names() == ["Agent", *(f"Supervisor@{system._agent_id}-m{number}" for number in (3, 4))]


# beginning and end


def ticket(session: Session) -> Ticket:
    assert session._authority is not None
    return Ticket(session._id, "", session._authority.issue, session._reactor, session._guest)


def test_at_least_one_machine_has_to_be_asked_for(session: Session, system: InprocessSystem) -> None:
    with pytest.raises(ProvisionError, match="at least one"):
        system.launch(0, ticket(session))


def test_after_its_end_it_provides_nothing(session: Session, system: InprocessSystem) -> None:
    given = ticket(session)
    session.shutdown()
    with pytest.raises(ProvisionError, match="was shut down; make a new one"):
        system.launch(1, given)


def test_it_may_be_shut_down_twice_or_unused() -> None:
    system = InprocessSystem()
    system.shutdown(1.0)
    system.shutdown(1.0)


def test_shutting_down_only_the_system_ends_the_machines(session: Session, system: InprocessSystem) -> None:
    machines = running(session, 2)
    system.shutdown(1.0)
    assert [reason(machine).certificate.cause for machine in machines] == [Cause.SHUTDOWN] * 2


def test_many_sessions_one_after_the_other_leave_nothing() -> None:
    """As in a user's test suite: no thread, descriptor, task or object of the library is left or grows in number."""

    def one_session() -> None:
        with bigmachine.start(InprocessSystem()) as session:
            one, other = session.start(2, services=[Echo()])
            assert one.call(Echo.ask, other, 1) == 1
            assert list(one.call(Echo.count, 3)) == [0, 1, 2]

    def counted() -> tuple[int, int, Counter[str]]:
        gc.collect()
        ours = (type(o) for o in gc.get_objects() if str(type(o).__module__).startswith("bigmachine."))
        kinds = Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in ours)
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), kinds

    if not Path("/proc/self/fd").exists():
        pytest.skip("open descriptors are counted by Linux's /proc")
    for _ in range(3):
        one_session()  # what is made once and kept (pools, caches)
    before = counted()
    for _ in range(40):
        one_session()
    eventually(lambda: not grown(before, counted()), f"{grown(before, counted())}")


def grown(before: tuple[int, int, Counter[str]], after: tuple[int, int, Counter[str]]) -> list[str]:
    """Tell what there is more of; less is well, for a thread may have been about to end."""
    more = [f"{kind}: {count}" for kind, count in (after[2] - before[2]).items()]
    for what, old, new in (("threads", before[0], after[0]), ("descriptors", before[1], after[1])):
        if new > old:
            more.append(f"{what}: {old} -> {new}")
    return more


def test_a_session_works_beside_the_users_own_event_loop(system: InprocessSystem) -> None:
    async def main() -> list[object]:
        with bigmachine.start(system) as session:
            machines = session.start(3, services=[Echo()])
            return list(await asyncio.gather(*(m.submit(Echo.same_async, m.name) for m in machines)))

    assert asyncio.run(main()) == ["m1", "m2", "m3"]


def test_an_init_that_ends_after_its_session_disturbs_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    Late.begun.clear()
    Late.may_end.clear()
    with inside() as (_, session):
        session.start(services=[Late()])
        assert Late.begun.wait(10)
        session.shutdown()
        Late.may_end.set()
    assert capfd.readouterr().err == ""


class Late:
    begun = threading.Event()
    may_end = threading.Event()

    def init(self, session: object) -> None:
        Late.begun.set()
        assert Late.may_end.wait(10)
