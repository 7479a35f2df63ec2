"""Events keep their order, can be read again until they are acknowledged, and say when they are too many."""

from __future__ import annotations

from bigmachine.agent.events import EventLog, Output, PhaseChanged, Stopped
from bigmachine.errors import DeathCertificate


def filled(n: int, limit: int = 1 << 20) -> EventLog:
    log = EventLog(limit)
    for i in range(n):
        log.output("h1-m1", float(i), "stdout", b"%d\n" % i)
    return log


def test_events_are_numbered_from_one_without_gaps() -> None:
    log = EventLog()
    log.phase("h1-m1", 0.0, "importing")
    log.output("h1-m1", 1.0, "stderr", b"x")
    log.stopped(DeathCertificate("shutdown", "h1-m1"), 2.0)
    kinds = [type(event) for event in log.after(0)]
    assert kinds == [PhaseChanged, Output, Stopped]
    assert [event.seq for event in log.after(0)] == [1, 2, 3]
    assert log.last == 3


def test_a_cursor_gives_what_came_after_it() -> None:
    assert [event.seq for event in filled(10).after(7)] == [8, 9, 10]
    assert filled(10).after(10) == []


def test_no_more_is_given_at_once_than_asked_for() -> None:
    assert [event.seq for event in filled(10).after(2, most=3)] == [3, 4, 5]


def test_what_is_not_acknowledged_can_be_read_again() -> None:
    log = filled(10)
    log.acknowledge(4)
    assert [event.seq for event in log.after(0)] == [5, 6, 7, 8, 9, 10]
    assert [event.seq for event in log.after(6)] == [7, 8, 9, 10]


def test_acknowledging_twice_or_too_much_is_harmless() -> None:
    log = filled(3)
    log.acknowledge(2)
    log.acknowledge(1)
    log.acknowledge(99)
    assert log.is_settled
    log.output("h1-m1", 0.0, "stdout", b"more")
    assert [event.seq for event in log.after(0)] == [4]
    assert not log.is_settled


def test_output_fills_the_log_and_acknowledging_makes_room() -> None:
    log = EventLog(limit=10_000)
    log.output("h1-m1", 0.0, "stdout", b"x" * 9_000)
    assert not log.is_full
    log.output("h1-m1", 0.0, "stdout", b"x" * 1_000)
    assert log.is_full
    log.acknowledge(1)
    assert not log.is_full


def test_many_tiny_events_fill_it_too() -> None:
    assert filled(1000, limit=100_000).is_full


def test_a_full_log_still_takes_what_matters_most() -> None:
    log = EventLog(limit=0)
    log.stopped(DeathCertificate("oom", "h1-m1"), 0.0, b"pickle", "text")
    (event,) = log.after(0)
    assert isinstance(event, Stopped)
    assert (event.certificate.cause, event.exception, event.text) == ("oom", b"pickle", "text")
