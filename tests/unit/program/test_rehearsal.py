"""A zygote's rehearsal comes to its end, and leaves nothing that a fork would have in common with others."""

from __future__ import annotations

import asyncio
import gc
import os
import threading

import pytest

from bigmachine.machine import handle, receive_with
from bigmachine.program import rehearsal
from bigmachine.rpc import reactor
from bigmachine.session.session import Session


def test_it_gets_to_the_first_service() -> None:
    """`rehearse` keeps failures to itself, as a zygote can do without."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(rehearsal._rehearse(loop, rehearsal._told(), Session.on_machine), 20))
    finally:
        receive_with("nobody", None)
        loop.close()


def test_it_leaves_no_file_thread_session_or_loop() -> None:
    gc.collect()
    files, threads = os.listdir("/dev/fd"), threading.active_count()
    sessions, reactors = set(handle._arrivals), len(reactor._reactors)
    rehearsal.rehearse(Session.on_machine, receive_with)
    gc.collect()
    assert os.listdir("/dev/fd") == files
    assert threading.active_count() == threads
    assert set(handle._arrivals) == sessions
    assert len(reactor._reactors) == reactors


def test_what_fails_in_it_is_of_no_consequence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("it cannot be")

    files = os.listdir("/dev/fd")
    monkeypatch.setattr(rehearsal, "Server", fail)
    rehearsal.rehearse(Session.on_machine, receive_with)
    gc.collect()
    assert os.listdir("/dev/fd") == files
