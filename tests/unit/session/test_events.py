"""Each machine's life is told as events, in order, to a function or as lines of JSON."""

from __future__ import annotations

import json
import multiprocessing
import stat
import time
from pathlib import Path

import pytest

import bigmachine
from bigmachine import Event, State
from bigmachine.errors import Cause, DeathCertificate, InvalidCall
from bigmachine.session.events import events_to
from bigmachine.systems.inprocess import InprocessSystem
from tests.unit.inside import Echo


class Fails:
    def init(self, session: object) -> None:
        raise ValueError("no luck")


def lives(events: list[Event], name: str) -> list[str]:
    return [event.kind for event in events if event.machine == name]


def test_a_machine_starts_lives_and_stops() -> None:
    events: list[Event] = []
    begin = time.time()
    with bigmachine.start(InprocessSystem(), name="big", events=events.append) as session:
        (machine,) = session.start(services=[Echo()])
        machine.wait(State.RUNNING, 10)
        time.sleep(0.05)
    start, alive, stop = events
    assert [event.kind for event in events] == ["start", "alive", "stop"]
    for event in events:
        assert (event.session, event.system, event.machine) == ("big", "inprocess", "m1")
        assert event.address == machine.address
        assert begin - 1 <= event.time <= time.time() + 1
    assert start.duration_s == 0 < alive.duration_s
    assert alive.duration_s + 0.05 <= stop.duration_s < time.time() - begin + 1
    assert stop.cause == "shutdown"
    assert stop.certificate is not None
    assert stop.message == stop.certificate.describe()


def test_a_machine_that_is_not_told_to_stop_is_an_error_first() -> None:
    events: list[Event] = []
    system = InprocessSystem()
    with bigmachine.start(system, events=events.append) as session:
        one, other = session.start(2, services=[Echo()])
        for machine in (one, other):
            machine.wait(State.RUNNING, 10)
        system.kill(one)
        with pytest.raises(bigmachine.MachineStopped):
            one.call(Echo.same, 1)
        other.cancel()
        (bad,) = session.start(services=[Fails()])
        with pytest.raises(bigmachine.MachineStopped):
            bad.wait(State.RUNNING, 10)
    assert lives(events, "m1") == ["start", "alive", "error", "stop"]
    assert lives(events, "m2") == ["start", "alive", "stop"]
    assert lives(events, "m3") == ["start", "error", "stop"]
    causes = {(event.machine, event.cause) for event in events if event.cause}
    assert causes == {("m1", "signal"), ("m2", "cancelled"), ("m3", "init_failed")}
    assert all(event.duration_s >= 0 for event in events)


def test_a_function_that_fails_does_no_harm_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    def function(event: Event) -> None:
        raise ValueError("no luck")

    with bigmachine.start(InprocessSystem(), events=function) as session:
        (machine,) = session.start(services=[Echo()])
        assert machine.call(Echo.same, 1) == 1
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert "no luck" in caplog.text


EVENT = Event(
    "stop",
    1.5,
    "big",
    "local",
    "m1",
    "a:1/h-m1",
    2.5,
    "signal",
    "no\nluck",
    DeathCertificate(Cause.SIGNAL, "m1", signal=11, peak_memory=2**20, last_lines=("x" * 10_000,)),
)


def test_an_event_is_one_line_of_json_with_the_facts_of_the_certificate() -> None:
    line = EVENT.to_json()
    assert "\n" not in line
    fields = json.loads(line)
    certificate = fields.pop("certificate")
    assert fields == {
        "kind": "stop",
        "time": 1.5,
        "session": "big",
        "system": "local",
        "machine": "m1",
        "address": "a:1/h-m1",
        "duration_s": 2.5,
        "cause": "signal",
        "message": "no\nluck",
    }
    assert (certificate["signal"], certificate["peak_memory"], certificate["cause"]) == (11, 2**20, "signal")
    assert "last_lines" not in certificate
    assert "certificate" not in json.loads(Event("start", 0.0, "", "", "m1", "").to_json())


def append_many(path: str) -> None:
    take = events_to(path)
    for _ in range(300):
        take(EVENT)


def test_several_processes_may_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind": "old"}\n')
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_many, args=(str(path),)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds == ["old", *["stop"] * 900]


def test_a_session_appends_to_a_file_that_only_this_user_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIGMACHINE_EVENTS", "events.jsonl")
    with bigmachine.start(InprocessSystem()) as session:
        (tmp_path / "sub").mkdir()
        monkeypatch.chdir(tmp_path / "sub")  # what it is relative to does not change
        session.start(1, services=[Echo()])[0].wait(State.RUNNING, 10)
    path = tmp_path / "events.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["start", "alive", "stop"]


def test_what_takes_no_events_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCall, match="events=7"):
        events_to(7)  # type: ignore[arg-type]  # this is the mistake
    with pytest.raises(InvalidCall, match="Is a directory"):
        events_to(tmp_path)
