"""Who looks for what: both ends of a lone call, by whatever connection; nobody when many are under way."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from bigmachine.rpc import polling
from tests.unit.rpc.ends import Ends, tls, until_async
from tests.unit.rpc.test_direct import call, connect

#: On a busy computer an answer may take long many times: so many calls are enough for a row that came soon.
_MANY = 20_000


class Service:
    def echo(self, value: object = None) -> object:
        return value

    async def echo_async(self, value: object = None) -> object:
        return value


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often which thread has looked."""
    looked: Counter[str] = Counter()

    def step_back() -> None:
        looked[threading.current_thread().name] += 1

    monkeypatch.setattr(polling, "STEP_BACK", step_back)
    return looked


@pytest.fixture
def ends() -> Iterator[Ends]:
    with tls({"S": Service()}) as ends:
        ends.server.reactor.polling.is_off = False  # it is a thread of this process here, and on a machine the main one
        yield ends


def test_a_thread_that_waits_and_the_one_that_serves_it_look(ends: Ends, looked: Counter[str]) -> None:
    connect(ends)
    looked.clear()
    for _ in range(_MANY):
        assert call(ends, "S.echo", 1) == 1
        if looked["MainThread"] and looked["bigmachine-direct"]:
            break
    assert set(looked) == {"MainThread", "bigmachine-direct"}


async def come_near(ends: Ends) -> None:
    while not ends.link._nears:
        await ends.submit("S.echo_async", 1)
    (near,) = ends.link._nears.values()
    for _ in range(100):
        await ends.submit("S.echo_async", 1)
    await until_async(lambda: near.link is not None and near.link.is_ready)


@pytest.mark.parametrize("method", ["S.echo", "S.echo_async"])
def test_an_event_loop_that_awaits_a_call_and_the_one_that_serves_it_look(
    method: str, ends: Ends, looked: Counter[str]
) -> None:
    serves = "test-io"

    async def run() -> None:
        await come_near(ends)
        looked.clear()
        for _ in range(_MANY):
            assert await ends.submit(method, 1) == 1
            if looked["MainThread"] and looked[serves]:
                break

    asyncio.run(run())
    assert looked["MainThread"]
    assert looked[serves]


def test_nobody_looks_while_many_calls_are_under_way(ends: Ends, looked: Counter[str]) -> None:
    async def run() -> None:
        await come_near(ends)
        for _ in range(100):  # so the odds would be good
            assert await ends.submit("S.echo_async", 1) == 1
        looked.clear()
        for _ in range(100):
            await asyncio.gather(*(ends.submit("S.echo_async", n) for n in range(16)))

    asyncio.run(run())
    # The first of sixteen is alone for as long as it takes to make the next; the serving end sees them together.
    assert looked["test-io"] < 100


def test_the_loop_of_a_link_that_serves_other_threads_never_looks(ends: Ends, looked: Counter[str]) -> None:
    ends.server.reactor.polling.is_off = True
    for _ in range(300):
        assert ends.call("S.echo_async", 1) == 1
    assert not looked
