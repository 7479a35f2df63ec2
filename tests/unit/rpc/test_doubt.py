"""Calls that come while a connection seems to be mute wait until it speaks or the next one stands."""

from __future__ import annotations

import asyncio

import pytest

from bigmachine.errors import NetworkError
from tests.unit.rpc.ends import PATIENCE, Ends, memory, until


class Gate:
    """Lets calls wait, and keeps the names of those that came."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.opened = asyncio.Event()
        self.ended = asyncio.Event()

    async def enter(self, name: str) -> str:
        self.came.append(name)
        await self.opened.wait()
        return name

    async def stay(self, name: str) -> str:
        self.came.append(name)
        await self.ended.wait()
        return name

    async def note(self, name: str) -> str:
        self.came.append(name)
        return name


def test_a_call_in_doubt_waits_until_the_connection_speaks() -> None:
    gate = Gate()
    with memory({"Gate": gate}) as ends:
        before = ends.submit("Gate.enter", "before")
        until(lambda: gate.came)
        ends.on_link(ends.link.doubt)
        calls = [ends.submit("Gate.note", name) for name in "abc"]
        ends.on_link(lambda: None)
        ends.on_server(lambda: None)
        assert gate.came == ["before"]
        ends.on_server(gate.opened.set)
        assert [call.result(PATIENCE) for call in (before, *calls)] == ["before", "a", "b", "c"]
        assert ends.call("Gate.note", "d") == "d"
        assert gate.came == ["before", "a", "b", "c", "d"]


def test_a_call_in_doubt_goes_by_the_next_connection_and_the_one_before_is_told() -> None:
    gate = Gate()
    with memory({"Gate": gate}) as ends:
        before = ends.submit("Gate.enter", "before")
        until(lambda: gate.came)
        ends.on_link(ends.link.doubt)
        call = ends.submit("Gate.note", "after", timeout=PATIENCE)
        ends.cut()
        assert call.result(PATIENCE) == "after"
        with pytest.raises(NetworkError):
            before.result(PATIENCE)
        assert gate.came == ["before", "after"]


def _hold_up(ends: Ends) -> None:
    """Have the link doubt, and what it sends pass for unacknowledged: no packet is lost within a process."""
    ends.link.is_held_up = lambda: True  # type: ignore[method-assign]
    ends.link.doubt()


def test_a_call_does_not_go_by_a_connection_that_is_heard_but_does_not_take_it() -> None:
    gate = Gate()
    with memory({"Gate": gate}) as ends:
        answered, running = ends.submit("Gate.enter", "answered"), ends.submit("Gate.stay", "running")
        until(lambda: len(gate.came) == 2)
        mute = ends.link.main
        ends.on_link(lambda: _hold_up(ends))
        waiting = ends.submit("Gate.note", "waiting")
        ends.on_link(lambda: None)
        ends.on_server(gate.opened.set)
        assert answered.result(PATIENCE) == "answered"
        assert waiting.result(PATIENCE) == "waiting"
        assert ends.link.main is not mute
        with pytest.raises(NetworkError, match="replaced"):
            running.result(PATIENCE)
        assert gate.came == ["answered", "running", "waiting"]


def test_a_connection_that_is_heard_is_kept_until_a_call_needs_another_one() -> None:
    gate = Gate()
    with memory({"Gate": gate}) as ends:
        answered, running = ends.submit("Gate.enter", "answered"), ends.submit("Gate.stay", "running")
        until(lambda: len(gate.came) == 2)
        mute = ends.link.main
        ends.on_link(lambda: _hold_up(ends))
        ends.on_server(gate.opened.set)
        assert answered.result(PATIENCE) == "answered"
        dialer = ends.link._dialer
        ends.link._dialer = None  # type: ignore[assignment]  # nobody is dialled
        assert not ends.reactor.run(ends.link.replace(), PATIENCE)
        ends.link._dialer = dialer
        assert ends.link.main is mute
        assert ends.call("Gate.note", "next") == "next"
        assert ends.link.main is not mute
        with pytest.raises(NetworkError, match="replaced"):
            running.result(PATIENCE)


def test_a_connection_that_takes_what_is_sent_again_is_believed_when_it_is_heard() -> None:
    gate = Gate()
    with memory({"Gate": gate}) as ends:
        answered, running = ends.submit("Gate.enter", "answered"), ends.submit("Gate.stay", "running")
        until(lambda: len(gate.came) == 2)
        believed = ends.link.main
        ends.on_link(lambda: _hold_up(ends))
        ends.on_link(lambda: setattr(ends.link, "is_held_up", lambda: False))
        waiting = ends.submit("Gate.note", "waiting")
        ends.on_link(lambda: None)
        assert gate.came == ["answered", "running"]
        ends.on_server(gate.opened.set)
        assert [call.result(PATIENCE) for call in (answered, waiting)] == ["answered", "waiting"]
        assert ends.link.main is believed
        ends.on_server(gate.ended.set)
        assert running.result(PATIENCE) == "running"


def test_a_call_in_doubt_can_be_given_up() -> None:
    gate = Gate()
    with memory({"Gate": gate}) as ends:
        before = ends.submit("Gate.enter", "before")
        until(lambda: gate.came)
        ends.on_link(ends.link.doubt)
        cancelled = ends.submit("Gate.note", "cancelled")
        late = ends.submit("Gate.note", "late", timeout=0.02)
        assert cancelled.cancel()
        with pytest.raises(TimeoutError):
            late.result(PATIENCE)
        ends.on_server(gate.opened.set)
        assert before.result(PATIENCE) == "before"
        assert gate.came == ["before"]
