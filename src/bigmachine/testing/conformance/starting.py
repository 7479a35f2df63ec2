"""Machines come up, as they were ordered, or say why not."""

from __future__ import annotations

import os
import time

import pytest

from bigmachine import Machine, MachineStopped, ProvisionError, Session, State
from bigmachine.errors import Cause, RemoteError
from bigmachine.testing.conformance.fixtures import Watched, eventually, needs_process
from bigmachine.testing.conformance.services import OddError, Probe, Unknown, Unready


class TestOneMachine:
    """What holds for each machine."""

    def test_it_runs_and_answers(self, machine: Machine) -> None:
        assert machine.state is State.RUNNING
        assert machine.error is None
        assert machine.call(Probe.same, 3) == 3
        assert machine.call("Probe.same", 4) == 4

    def test_it_is_owned_and_has_an_address_a_host_and_processors(self, machine: Machine) -> None:
        assert machine.owned is True
        assert machine.name in machine.address
        assert machine.hostname
        assert machine.maxprocs >= 1

    def test_it_tells_the_same_about_itself(self, machine: Machine) -> None:
        info = machine.call("Supervisor.info")
        assert info.maxprocs == machine.maxprocs
        assert info.pid == machine.call("Supervisor.getpid") == machine.call(Probe.facts)["pid"]
        assert machine.mem_info().total > 0
        assert machine.disk_info().total > 0
        assert machine.load_info().load1 >= 0

    def test_its_services_were_initialised_before_it_ran(self, machine: Machine) -> None:
        facts = machine.call(Probe.facts)
        assert facts["is_ready"] is True
        assert facts["is_driver"] is False

    def test_it_is_a_process_of_its_own(self, machine: Machine) -> None:
        needs_process(machine)
        assert machine.call(Probe.facts)["pid"] != os.getpid()


class TestOrders:
    """What is said at the start reaches the machine."""

    def test_services_have_the_names_and_the_state_that_they_are_given(
        self, session: Session, watched: Watched
    ) -> None:
        (machine,) = session.start(services={"a": Probe("one"), "b": Probe("two")})
        machine.wait(State.RUNNING, watched.patience)
        assert machine.call("a.facts")["word"] == "one"
        assert machine.call("b.facts")["word"] == "two"

    def test_environ_and_args_reach_the_machine(self, session: Session, watched: Watched) -> None:
        (machine,) = session.start(services=[Probe()], environ={"CONFORMANCE": "ä=1"}, args=["-x", "two words"])
        machine.wait(State.RUNNING, watched.patience)
        needs_process(machine)
        assert machine.call(Probe.environ, "CONFORMANCE") == "ä=1"
        assert machine.call(Probe.args) == ["-x", "two words"]
        assert "CONFORMANCE" not in os.environ

    def test_a_state_only_grows(self, session: Session, watched: Watched) -> None:
        (machine,) = session.start(services=[Probe()])
        seen = [machine.state]
        end = time.monotonic() + watched.patience
        while seen[-1] < State.RUNNING:
            assert time.monotonic() < end, f"{machine!r} does not come up"
            seen.append(machine.state)
            time.sleep(0.0005)
        assert seen == sorted(seen)
        assert State.UNSTARTED not in seen


class TestSeveralMachines:
    """Machines are started in numbers."""

    def test_as_many_as_are_asked_for_or_fewer_all_answer(self, session: Session, watched: Watched) -> None:
        machines = watched.run(session, 3)
        assert watched.launches == [3]
        assert 1 <= len(machines) == len(watched.places) <= 3
        assert session.machines() == machines
        assert len({machine.address for machine in machines}) == len(machines)
        calls = [machine.submit(Probe.same, number) for number, machine in enumerate(machines)]
        assert [call.result(30) for call in calls] == list(range(len(machines)))

    def test_more_can_be_started_later(self, session: Session, watched: Watched) -> None:
        first = watched.run(session)
        second = watched.run(session)
        assert session.machines() == first + second
        assert [machine.call(Probe.same, 1) for machine in (*first, *second)] == [1, 1]

    def test_none_at_all_cannot_be_asked_for(self, session: Session, watched: Watched) -> None:
        watched.run(session)
        with pytest.raises(ProvisionError):
            watched.system.launch(0, watched.tickets[0])


class TestFailures:
    """A machine that cannot come up stops at once, with the reason, and its place is given back."""

    def test_an_init_that_raises(self, session: Session, watched: Watched) -> None:
        (machine,) = session.start(services=[Unready()])
        with pytest.raises(MachineStopped) as caught:
            machine.wait(State.RUNNING, watched.patience)
        assert caught.value.certificate.cause == Cause.INIT_FAILED
        assert isinstance(caught.value.__cause__, OddError | RemoteError)
        assert "not ready" in str(caught.value)
        eventually(lambda: watched.released == watched.places, "its place is not released")

    def test_a_service_that_cannot_be_rebuilt_there(self, session: Session, watched: Watched) -> None:
        (machine,) = session.start(services={"S": Unknown()})
        with pytest.raises(MachineStopped, match="only_on_the_driver") as caught:
            machine.wait(State.RUNNING, watched.patience)
        assert caught.value.certificate.cause == Cause.BOOT_FAILED
        eventually(lambda: watched.released == watched.places, "its place is not released")

    def test_others_are_not_concerned(self, session: Session, watched: Watched) -> None:
        (good,) = watched.run(session)
        (bad,) = session.start(services=[Unready()])
        watched.stops(bad)
        assert good.call(Probe.same, 1) == 1
        assert session.machines() == [good]
