"""Memory that nothing was written to is given back, and nothing else is."""

from __future__ import annotations

import asyncio
import ctypes
import re
import sys
from pathlib import Path

import pytest

from bigmachine.rpc.pages import give_back_zeros

uvloop = pytest.importorskip("uvloop")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")


def resident() -> int:
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def contents(thing: object) -> bytes:
    return ctypes.string_at(id(thing), type(thing).__basicsize__)


def test_the_buffer_of_a_new_loop_takes_no_memory() -> None:
    loop = uvloop.new_event_loop()
    try:
        before = resident()
        given = give_back_zeros(loop)
        assert given > 200_000
        assert before - resident() > given / 2  # this process may have taken some for something else
    finally:
        loop.close()


def test_what_the_object_holds_stays() -> None:
    loop = uvloop.new_event_loop()
    try:
        before = contents(loop)
        give_back_zeros(loop)
        assert contents(loop) == before
    finally:
        loop.close()


def test_the_loop_can_use_its_buffer_afterwards() -> None:
    async def echoed() -> bytes:
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        out, _ = await process.communicate(b"x" * 300_000)
        return out

    loop = uvloop.new_event_loop()
    give_back_zeros(loop)
    try:
        assert loop.run_until_complete(asyncio.wait_for(echoed(), 20)) == b"x" * 300_000
    finally:
        loop.close()


def test_of_a_small_object_nothing_is_given_back() -> None:
    assert give_back_zeros(object()) == 0
