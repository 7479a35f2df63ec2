"""Machines end when they are told to, or die, and in each case nothing of them is left."""

from __future__ import annotations

import time

import pytest

import bigmachine
from bigmachine import BigmachineError, MachineStopped, ProvisionError, Session, State
from bigmachine.errors import Cause
from bigmachine.testing.conformance.fixtures import (
    Left,
    Watched,
    eventually,
    make_system,
    needs_process,
    watch,
)
from bigmachine.testing.conformance.services import Probe


class TestOneMachine:
    """One machine ends."""

    def test_shutdown_ends_it_and_no_other(self, session: Session, watched: Watched) -> None:
        machine, *others = watched.run(session, 2)
        machine.shutdown()
        assert machine.state is State.STOPPED
        assert watched.stops(machine).certificate.cause == Cause.SHUTDOWN
        assert len(watched.released) == 1
        assert session.machines() == others
        assert all(other.call(Probe.same, 1) == 1 for other in others)
        with pytest.raises(MachineStopped):
            machine.call(Probe.same, 1)
        machine.shutdown()

    def test_cancel_stops_the_handle_at_once_and_the_machine_soon(self, session: Session, watched: Watched) -> None:
        (machine,) = watched.run(session)
        call = machine.submit(Probe.linger, 60.0)
        begin = time.monotonic()
        machine.cancel()
        assert isinstance(call.exception(10), MachineStopped)
        assert time.monotonic() - begin < 1
        assert watched.stops(machine).certificate.cause == Cause.CANCELLED
        eventually(lambda: watched.released == watched.places, "its place is not released")

    def test_a_killed_machine_fails_its_calls_with_a_certificate(self, session: Session, watched: Watched) -> None:
        machine, *others = watched.run(session, 2)
        pid = machine.call(Probe.facts)["pid"]
        call = machine.submit(Probe.linger, 60.0)
        machine.call(Probe.same)
        begun = time.time()
        watched.kill(machine)
        error = call.exception(10)
        assert isinstance(error, MachineStopped)
        certificate = error.certificate
        assert certificate.cause == Cause.SIGNAL
        assert (certificate.signal, certificate.machine, certificate.pid) == (9, machine.name, pid)
        assert certificate.started is not None
        assert certificate.stopped is not None
        assert certificate.started < certificate.stopped
        assert begun - 5 < certificate.stopped < time.time() + 5
        assert watched.stops(machine).certificate == certificate
        eventually(lambda: len(watched.released) == 1, "its place is not released")
        assert session.machines() == others
        assert all(other.call(Probe.same, 1) == 1 for other in others)

    def test_its_last_words_are_shown_before_shutdown_returns(
        self, session: Session, watched: Watched, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (machine,) = watched.run(session)
        needs_process(machine)
        machine.call(Probe.write, "first\nla")
        machine.call(Probe.write, "st")
        machine.shutdown()
        assert f"{machine.name}: first\n{machine.name}: last\n" in capsys.readouterr().err

    def test_another_can_be_started_in_its_place(self, session: Session, watched: Watched) -> None:
        (first,) = watched.run(session)
        first.shutdown()
        (second,) = watched.run(session)
        assert second.address != first.address
        assert second.call(Probe.same, 1) == 1


class TestSession:
    """A whole session ends."""

    def test_it_ends_all_machines_and_releases_every_place(self, watched: Watched) -> None:
        with bigmachine.start(watched.system) as session:
            machines = watched.run(session, 3)
        assert {machine.state for machine in machines} == {State.STOPPED}
        assert {watched.stops(machine).certificate.cause for machine in machines} == {Cause.SHUTDOWN}
        assert sorted(map(id, watched.released)) == sorted(map(id, watched.places))
        assert session.machines() == []

    def test_it_ends_machines_that_have_not_come_up_yet(self, watched: Watched) -> None:
        with bigmachine.start(watched.system) as session:
            machines = session.start(2, services=[Probe()])
        assert {watched.stops(machine).certificate.cause for machine in machines} == {Cause.SHUTDOWN}
        assert len(watched.released) == len(watched.places)

    def test_it_leaves_no_process_thread_or_open_file(self, watched: Watched) -> None:
        before = Left.look()
        with bigmachine.start(watched.system) as session:
            one, *others = watched.run(session, 3)
            call = one.submit(Probe.linger, 60.0)
            for other in others[:1]:
                watched.kill(other)
                watched.stops(other)
        assert isinstance(call.exception(0), MachineStopped)
        eventually(lambda: Left.look() == before, f"{before} became {Left.look()}")

    def test_after_it_nothing_starts(self, watched: Watched) -> None:
        with bigmachine.start(watched.system) as session:
            watched.run(session)
        with pytest.raises(BigmachineError, match="was shut down"):
            session.start(services=[Probe()])
        with pytest.raises(ProvisionError):
            watched.system.launch(1, watched.tickets[0])
        session.shutdown()

    def test_another_session_on_another_system_goes_on(
        self, session: Session, watched: Watched, bigmachine_system: str
    ) -> None:
        (machine,) = watched.run(session)
        other = watch(make_system(bigmachine_system), watched.patience)
        with bigmachine.start(other.system) as beside:
            (there,) = other.run(beside)
            assert (machine.call(Probe.same, 1), there.call(Probe.same, 2)) == (1, 2)
            session.shutdown()
            assert machine.state is State.STOPPED
            assert there.call(Probe.same, 3) == 3

    def test_a_system_has_one_session(self, session: Session, watched: Watched) -> None:
        (machine,) = watched.run(session)
        with pytest.raises(ProvisionError):
            bigmachine.start(watched.system)
        assert machine.call(Probe.same, 1) == 1


class TestSystem:
    """The System by itself."""

    def test_it_may_be_shut_down_unused_and_twice(self, watched: Watched) -> None:
        before = Left.look()
        begin = time.monotonic()
        watched.system.shutdown(5.0)
        watched.system.shutdown(5.0)
        assert time.monotonic() - begin < 10
        eventually(lambda: Left.look() == before, "something is left")

    def test_a_session_without_machines_leaves_nothing(self, watched: Watched) -> None:
        before = Left.look()
        with bigmachine.start(watched.system):
            pass
        eventually(lambda: Left.look() == before, f"{before} became {Left.look()}")

    def test_places_that_are_released_late_do_no_harm(self, watched: Watched) -> None:
        with bigmachine.start(watched.system) as session:
            watched.run(session)
        watched.system.release(watched.places[0])

    def test_its_end_is_the_end_of_its_machines(self, session: Session, watched: Watched) -> None:
        machines = watched.run(session, 2)
        watched.system.shutdown(10.0)
        for machine in machines:
            watched.stops(machine)
            with pytest.raises(MachineStopped):
                machine.call(Probe.same, 1)
