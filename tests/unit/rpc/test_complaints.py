"""What others can cause is told now and then, and nothing of it is lost but its number."""

from __future__ import annotations

import logging

import pytest

from bigmachine.rpc.complaints import Complaints

_log = logging.getLogger("bigmachine.rpc.test_complaints")


def told(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


def test_a_flood_is_one_line_a_pause_and_says_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    complaints = Complaints(_log, clock=lambda: now[0])
    for number in range(1000):
        complaints.warn("frame", "a frame of %s is odd", number, pause=2.0)
    now[0] += 2.0
    complaints.warn("frame", "a frame of %s is odd", "x", pause=2.0)
    now[0] += 2.0
    complaints.warn("frame", "a frame of %s is odd", "y", pause=2.0)
    assert told(caplog) == [
        "a frame of 0 is odd",
        "a frame of x is odd (and 999 more like it since the last time)",
        "a frame of y is odd",
    ]


def test_kinds_do_not_hide_each_other(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(_log, clock=lambda: 1.0)
    for kind in ("a", "b", "a"):
        complaints.warn(kind, "%s", kind)
    assert told(caplog) == ["a", "b"]


def test_every_traceback_is_there_for_who_debugs_and_in_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, _log.name)
    complaints = Complaints(_log, clock=lambda: 1.0)
    for _ in range(3):
        complaints.warn("frame", "odd", error=KeyError("x"))
    assert told(caplog, logging.DEBUG) == ["frame:"] * 3
    assert all(record.exc_info for record in caplog.records if record.levelno == logging.DEBUG)
    assert not any(record.exc_info for record in caplog.records if record.levelno == logging.WARNING)
