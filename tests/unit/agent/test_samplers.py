"""Those who look into machines of one host share its processors, and start one after the other."""

from __future__ import annotations

import asyncio
import itertools

from bigmachine.agent.watch.samplers import Samplers


def rates(wanted: list[int], cpus: float) -> list[int]:
    async def one(samplers: Samplers, hertz: int, met: asyncio.Barrier) -> int:
        async with samplers.one(hertz) as allowed:
            await met.wait()
            return allowed

    async def together() -> list[int]:
        samplers, met = Samplers(cpus), asyncio.Barrier(len(wanted))
        return await asyncio.gather(*(one(samplers, hertz, met) for hertz in wanted))

    return asyncio.run(together())


def test_one_alone_samples_as_often_as_is_wanted() -> None:
    assert rates([1000], cpus=1) == [1000]


def test_a_few_are_not_held_up() -> None:
    assert rates([100] * 5, cpus=1) == [100] * 5


def test_many_together_take_a_part_of_the_processors() -> None:
    assert rates([100] * 64, cpus=2) == [15] * 64
    assert rates([1000, 100, 1000, 1000], cpus=1) == [125, 100, 125, 125]
    assert rates([100] * 600, cpus=1) == [1] * 600


def test_who_comes_when_others_have_ended_is_alone_again() -> None:
    async def after() -> int:
        samplers = Samplers(1)
        async with samplers.one(1000), samplers.one(1000):
            pass
        async with samplers.one(1000) as allowed:
            return allowed

    assert asyncio.run(after()) == 1000


def test_between_two_starts_the_event_loop_has_its_turn() -> None:
    async def watched() -> list[int]:
        samplers, turns, seen = Samplers(1), 0, []

        def turn() -> None:
            nonlocal turns
            turns += 1
            asyncio.get_running_loop().call_soon(turn)

        async def start() -> None:
            async with samplers.start():
                seen.append(turns)

        turn()
        async with asyncio.timeout(10):
            await asyncio.gather(*(start() for _ in range(4)))
        return seen

    seen = asyncio.run(watched())
    assert all(after - before >= 5 for before, after in itertools.pairwise(seen)), seen


def test_a_start_that_fails_lets_the_next_one_begin() -> None:
    async def both() -> str:
        samplers = Samplers(1)
        try:
            async with samplers.start():
                raise OSError("no more processes")
        except OSError:
            pass
        async with asyncio.timeout(5), samplers.start():
            return "begun"

    assert asyncio.run(both()) == "begun"
