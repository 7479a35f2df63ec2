"""Calls that come while a connection seems to be mute wait until it speaks or the next one stands."""

from __future__ import annotations

import asyncio

import pytest

from bigmachine.errors import NetworkError
from tests.unit.rpc.ends import PATIENCE, memory, until


class Gate:
    """Lets calls wait, and keeps the names of those that came."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.opened = asyncio.Event()

    async def enter(self, name: str) -> str:
        self.came.append(name)
        await self.opened.wait()
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
