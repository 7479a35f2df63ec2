"""What is asked of a machine while it may die at any instant; each knows its right answer, and how long it may take.

An operation returns normally with the right answer, raises `Wrong` for a wrong one, and lets through what the library
raises, whose class `harness` judges.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from bigmachine import Machine, State, deadline
from tests.chaos.services import Refused, Target


class Dice(random.Random):
    """Dice, and the machines that there are and were."""

    machines: list[Machine]


class Wrong(Exception):
    """A call had an outcome, but not its own."""


def expect(got: object, wanted: object) -> None:
    if got != wanted:
        raise Wrong(f"{got!r:.80} instead of {wanted!r:.80}")


# from plain threads


def echo(machine: Machine, dice: Dice) -> None:
    token = dice.random()
    expect(machine.call(Target.echo, token), token)


def echo_large(machine: Machine, dice: Dice) -> None:
    data = dice.randbytes(dice.randrange(3 * 2**20))
    expect(machine.call(Target.echo, data) == data, True)


def with_deadline(machine: Machine, dice: Dice) -> None:
    seconds = dice.random() / 2
    with deadline(dice.random() / 2):
        expect(machine.call(Target.sleep, seconds), seconds)


def retried(machine: Machine, dice: Dice) -> None:
    token = dice.random()
    with deadline(4.0):
        expect(machine.retry_call(Target.echo_async, token), token)


def relayed(machine: Machine, dice: Dice) -> None:
    token = dice.random()
    there = [other for other in dice.machines if other.state is not State.STOPPED]
    with deadline(8.0):
        call = partial(machine.call, Target.relay) if dice.random() < 0.5 else partial(machine.call, Target.relay_async)
        expect(call(dice.choice([*there, machine]), token), token)


def refused(machine: Machine, dice: Dice) -> None:
    word = str(dice.random())
    try:
        machine.call(Target.refuse, word)
    except Refused as error:
        expect(error.args, (word,))
    else:
        raise Wrong("no exception arrived")


def cancelled(machine: Machine, dice: Dice) -> None:
    call = machine.submit(dice.choice((Target.sleep, Target.sleep_async)), 1.0)
    try:
        call.result(dice.random() / 10)
    except TimeoutError:
        call.cancel()


def many_at_once(machine: Machine, dice: Dice) -> None:
    calls = [machine.submit(Target.echo, i) for i in range(dice.randrange(1, 200))]
    errors = []
    for i, call in enumerate(calls):
        try:
            expect(call.result(), i)
        except Wrong:
            raise
        except Exception as error:  # noqa: BLE001 (the others are asked first)
            errors.append(error)
    if errors:
        raise errors[0]


def streamed_down(machine: Machine, dice: Dice) -> None:
    n = dice.randrange(300)
    pause = dice.choice((0.0, 0.001))
    call = partial(machine.call, Target.count) if dice.random() < 0.5 else partial(machine.call, Target.count_async)
    expect(list(call(n, pause)), list(range(n)))


def dropped_stream(machine: Machine, dice: Dice) -> None:
    call = partial(machine.call, Target.count) if dice.random() < 0.5 else partial(machine.call, Target.count_async)
    stream = call(10_000, 0.001)
    for i in range(dice.randrange(20)):
        expect(next(stream), i)
    if dice.random() < 0.5:
        stream.close()


def streamed_up(machine: Machine, dice: Dice) -> None:
    n = dice.randrange(500)
    expect(machine.call(Target.total, iter(range(n))), sum(range(n)))


def supervised(machine: Machine, dice: Dice) -> None:
    if not isinstance(machine.call("Supervisor.getpid"), int):
        raise Wrong("no pid")


PLAIN: list[Callable[[Machine, Dice], None]] = [
    echo,
    echo_large,
    with_deadline,
    retried,
    relayed,
    refused,
    cancelled,
    many_at_once,
    streamed_down,
    dropped_stream,
    streamed_up,
    supervised,
]

# from an event loop


async def echo_awaited(machine: Machine, dice: Dice) -> None:
    token = dice.random()
    expect(await machine.submit(Target.echo_async, token), token)


async def gathered(machine: Machine, dice: Dice) -> None:
    n = dice.randrange(1, 100)
    results = await asyncio.gather(*(machine.submit(Target.echo, i) for i in range(n)), return_exceptions=True)
    for i, result in enumerate(results):
        if isinstance(result, BaseException):
            raise result
        expect(result, i)


async def timed_out(machine: Machine, dice: Dice) -> None:
    try:
        async with asyncio.timeout(dice.random() / 5):
            await machine.submit(Target.sleep_async, 1.0)
    except TimeoutError:
        pass


async def streamed_both_ways(machine: Machine, dice: Dice) -> None:
    n = dice.randrange(200)

    async def numbers() -> AsyncIterator[int]:
        for i in range(n):
            yield i
            if dice.random() < 0.05:
                await asyncio.sleep(0.001)

    got = [number async for number in await machine.submit(Target.doubled, numbers())]
    expect(got, [2 * i for i in range(n)])


async def dropped_async(machine: Machine, dice: Dice) -> None:
    async for number in await machine.submit(Target.count_async, 10_000, 0.001):
        if number > dice.randrange(20):
            break


AWAITED: list[Callable[[Machine, Dice], Awaitable[None]]] = [
    echo_awaited,
    gathered,
    timed_out,
    streamed_both_ways,
    dropped_async,
]
