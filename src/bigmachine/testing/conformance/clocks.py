"""Machines are kept alive, and end themselves when nobody does that any more."""

from __future__ import annotations

import dataclasses

from bigmachine import Keepalive, Session, State
from bigmachine.errors import Cause
from bigmachine.testing.conformance.fixtures import Watched, eventually
from bigmachine.testing.conformance.services import Probe


class TestClocks:
    """The lease, renewed and not renewed."""

    def test_a_system_has_clocks(self, watched: Watched) -> None:
        assert isinstance(watched.system.keepalive, Keepalive)

    def test_keepalives_are_sent_and_answered(self, session: Session, watched: Watched) -> None:
        clocks = dataclasses.replace(watched.system.keepalive, interval=0.1)
        watched.system.keepalive = clocks
        (machine,) = watched.run(session)
        eventually(lambda: len(machine.keepalive_reply_times()) >= 3, "keepalives are not answered")
        assert all(took >= 0 for took in machine.keepalive_reply_times())
        assert machine.next_keepalive is not None
        assert 0 < machine.next_keepalive <= clocks.lease

    def test_a_machine_without_keepalives_ends_itself(self, session: Session, watched: Watched) -> None:
        watched.system.keepalive = dataclasses.replace(watched.system.keepalive, interval=300.0, lease=600.0)
        machine, *others = watched.run(session, 2)
        eventually(machine.keepalive_reply_times, "the first keepalive is not answered")
        machine.call("Supervisor.keepalive", 0.3)  # it now has to hear of its driver within 0.3 s, and will not
        reason = watched.stops(machine)
        assert reason.certificate.cause == Cause.LEASE_EXPIRED
        assert all(other.call(Probe.same, 1) == 1 for other in others)

    def test_a_machine_ends_at_its_maximum_age(self, session: Session, watched: Watched) -> None:
        watched.system.keepalive = dataclasses.replace(watched.system.keepalive, max_life=0.5)
        (machine,) = session.start(services=[Probe()])
        assert watched.stops(machine).certificate.cause == Cause.LEASE_EXPIRED
        assert machine.state is State.STOPPED


class TestMeanwhile:
    """Clocks that do not run out."""

    def test_a_busy_machine_is_not_taken_for_dead(self, session: Session, watched: Watched) -> None:
        watched.system.keepalive = dataclasses.replace(watched.system.keepalive, interval=0.1, lease=1.5)
        (machine,) = watched.run(session)
        call = machine.submit(Probe.wait, 1.8)  # longer than the lease
        assert call.result(30) is None
        assert machine.state is State.RUNNING
