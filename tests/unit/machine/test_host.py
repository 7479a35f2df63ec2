"""The driver's side of an agent: its events arrive once each, in order, whatever the connection does."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator

import pytest

from bigmachine import Machine, State
from bigmachine.agent import Stopped
from bigmachine.errors import Cause, DeathCertificate, MachineStopped, RemoteTraceback
from bigmachine.machine import Phase, host
from bigmachine.machine.host import stopped_by
from bigmachine.session import Session
from tests.unit.inside import Echo, eventually, inside
from tests.unit.machine.odd_system import OddSystem


@pytest.fixture
def odd() -> OddSystem:
    return OddSystem()


@pytest.fixture
def session(odd: OddSystem) -> Iterator[Session]:
    with inside(odd) as (_, session):
        yield session


@pytest.fixture
def machine(session: Session) -> Machine:
    (machine,) = session.start(services=[Echo()])
    machine.wait(State.RUNNING, 10)
    return machine


@pytest.fixture
def seen(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bytes]]:
    """What machines have written, as it came."""
    seen: list[tuple[str, str, bytes]] = []
    monkeypatch.setattr(session, "wrote", lambda machine, stream, data: seen.append((machine.name, stream, data)))
    return seen


def stop_event(error: Exception | None, text: str) -> Stopped:
    certificate = DeathCertificate(Cause.INIT_FAILED, "h1-m4")
    return Stopped(1, "h1-m4", 0.0, certificate, None if error is None else pickle.dumps(error), text)


def test_output_arrives_in_order_with_its_machine_and_stream(
    odd: OddSystem, machine: Machine, seen: list[tuple[str, str, bytes]]
) -> None:
    odd.write(machine.machine_id, b"one")
    odd.write(machine.machine_id, b"two", "stderr")
    eventually(lambda: seen == [("m1", "stdout", b"one"), ("m1", "stderr", b"two")], f"{seen}")


def test_a_broken_connection_loses_and_repeats_nothing(
    odd: OddSystem, machine: Machine, seen: list[tuple[str, str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_PAUSE", 0.02)
    odd.write(machine.machine_id, b"1")
    eventually(lambda: len(seen) == 1, "no output came")
    odd.break_events()
    odd.write(machine.machine_id, b"2")
    odd.write(machine.machine_id, b"3")
    eventually(lambda: [data for _, _, data in seen] == [b"1", b"2", b"3"], f"{seen}")
    assert odd.readers == [0, 1]


def test_an_agent_that_repeats_itself_is_heard_once(
    odd: OddSystem, machine: Machine, seen: list[tuple[str, str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_PAUSE", 0.02)
    monkeypatch.setattr(host, "_ACK_PAUSE", 60.0)  # so that it has something to repeat
    odd.repeats = True
    odd.write(machine.machine_id, b"1")
    eventually(lambda: len(seen) == 1, "no output came")
    odd.break_events()
    odd.write(machine.machine_id, b"2")
    eventually(lambda: len(seen) > 1, "no more output came")
    assert [data for _, _, data in seen] == [b"1", b"2"]


def test_events_are_acknowledged_so_that_the_agent_need_not_keep_them(
    odd: OddSystem, machine: Machine, seen: list[tuple[str, str, bytes]]
) -> None:
    odd.write(machine.machine_id, b"small")
    eventually(lambda: not odd.feed._events, "a few events are never acknowledged")
    begin = time.monotonic()
    odd.write(machine.machine_id, b"large" * 100_000)
    eventually(lambda: seen and not odd.feed._events, "a lot of output is never acknowledged")
    assert time.monotonic() - begin < 3


def test_a_phase_that_it_does_not_know_is_no_harm(
    odd: OddSystem, machine: Machine, seen: list[tuple[str, str, bytes]]
) -> None:
    odd.phase(machine.machine_id, "painting it blue")
    odd.write(machine.machine_id, b"on")
    eventually(lambda: seen, "the events end")


def test_what_happens_to_an_unknown_machine_is_no_harm(
    odd: OddSystem, machine: Machine, seen: list[tuple[str, str, bytes]]
) -> None:
    odd.write("h1-m99", b"who?")
    odd.write(machine.machine_id, b"on")
    eventually(lambda: seen == [("m1", "stdout", b"on")], f"{seen}")


def test_phases_are_passed_on(odd: OddSystem, session: Session) -> None:
    class_of_init_that_waits = Waits()
    Waits.may_end.clear()
    (machine,) = session.start(services=[class_of_init_that_waits])
    eventually(lambda: machine.phase is Phase.EXECUTING, "it is not launched")
    odd.phase(machine.machine_id, "initialising services")
    eventually(lambda: machine.phase is Phase.INITIALISING, "the phase is not passed on")
    assert repr(machine).endswith("STARTING (initialising services)>")
    Waits.may_end.set()


class Waits:
    import threading

    may_end = threading.Event()

    def init(self, session: object) -> None:
        assert Waits.may_end.wait(10)


# how an end becomes an error


def test_an_end_carries_what_was_raised_and_its_traceback() -> None:
    error = stopped_by(stop_event(LookupError("no data"), "Traceback: here"))
    assert isinstance(error, MachineStopped)
    assert error.certificate.cause == Cause.INIT_FAILED
    assert isinstance(error.__cause__, LookupError)
    assert isinstance(error.__cause__.__cause__, RemoteTraceback)
    assert "on machine m4:\nTraceback: here" in str(error.__cause__.__cause__)


def test_an_end_without_an_exception_carries_the_text() -> None:
    error = stopped_by(stop_event(None, "Traceback: here"))
    assert isinstance(error.__cause__, RemoteTraceback)


def test_an_end_with_neither_has_no_cause() -> None:
    assert stopped_by(stop_event(None, "")).__cause__ is None


def test_an_exception_that_cannot_be_rebuilt_leaves_the_text() -> None:
    event = Stopped(1, "h1-m4", 0.0, DeathCertificate(Cause.EXITED), b"no pickle", "Traceback: here")
    assert isinstance(stopped_by(event).__cause__, RemoteTraceback)
