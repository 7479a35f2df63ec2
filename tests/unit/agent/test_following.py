"""A program of a host is followed for as long as somebody reads what it says."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

import pytest

from bigmachine.agent.processes.reaper import Reaper
from bigmachine.agent.watch.following import follow
from bigmachine.errors import BigmachineError


def run(work: Callable[[Reaper], Awaitable[None]]) -> None:
    async def main() -> None:
        reaper = Reaper(asyncio.get_running_loop())
        try:
            async with asyncio.timeout(20):
                await work(reaper)
        finally:
            reaper.close()

    asyncio.run(main())


def test_what_it_writes_comes_and_closing_ends_it() -> None:
    async def work(reaper: Reaper) -> None:
        async with contextlib.aclosing(follow(reaper, ["sh", "-c", "echo $$; sleep 600"])) as pieces:
            pid = int(await anext(pieces))
            assert reaper.known == {pid}
        while reaper.known:  # noqa: ASYNC110 (a signal tells of it)
            await asyncio.sleep(0.01)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(work)


def test_much_of_it_comes_whole_however_slowly_it_is_taken() -> None:
    async def work(reaper: Reaper) -> None:
        size = 0
        async for piece in follow(reaper, ["head", "-c", "5000000", "/dev/zero"]):
            size += len(piece)
            await asyncio.sleep(0)
        assert size == 5_000_000

    run(work)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["sh", "-c", "echo no journal >&2; exit 3"], "sh failed on this host .no journal."),
        (["sh", "-c", "exit 3"], "sh failed on this host .3."),
        (["there-is-no-such-program"], "there-is-no-such-program cannot be run on this host"),
    ],
)
def test_one_that_fails_says_why(command: list[str], says: str) -> None:
    async def work(reaper: Reaper) -> None:
        with pytest.raises(BigmachineError, match=says):
            async for _ in follow(reaper, command):
                pass

    run(work)
