"""A loop that calls much gets a connection of its own, and no call waits for somebody who never looks at it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import pytest

from bigmachine.errors import BigmachineError, DeadlineExceeded, NetworkError
from bigmachine.rpc import Call, deadline, new_event_loop
from bigmachine.rpc.context import get_deadline
from bigmachine.rpc.near import Near
from tests.unit.rpc.ends import PATIENCE, Ends, memory, tls, until, until_async

ENOUGH = 64


class Service:
    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.told = threading.Event()
        self.seen: list[object] = []

    async def echo(self, value: object = None) -> object:
        return value

    def note(self, value: object) -> object:
        self.seen.append(value)
        return value

    async def hold(self) -> None:
        self.begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.told.set()

    def fail(self, exc: BaseException) -> None:
        raise exc

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def ends(service: Service) -> Iterator[Ends]:
    with tls({"S": service}) as it:
        yield it


@pytest.fixture(params=["asyncio", "uvloop", "asyncio without aiofastnet"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine on a fresh event loop of the caller's own."""
    if request.param == "asyncio without aiofastnet":
        monkeypatch.setitem(sys.modules, "aiofastnet", None)

    def it(coroutine: Coroutine[Any, Any, Any]) -> Any:
        factory = new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(coroutine, PATIENCE))

    return it


Run = Callable[[Coroutine[Any, Any, Any]], Any]


def links(ends: Ends) -> int:
    """How many links the server has; a further connection of one is a channel as well, but has no token."""
    return sum(bool(channel.token) for channel in list(ends.server.channels))


async def come_near(ends: Ends) -> Near:
    """Call until this loop has a connection of its own."""
    loop = asyncio.get_running_loop()
    for n in range(ENOUGH):
        assert await ends.submit("S.echo", n) == n
    near = ends.link._nears[loop]
    await until_async(lambda: near.link is not None and near.link.is_ready)
    return near


async def held_near(ends: Ends, service: Service) -> tuple[Call[Any], asyncio.Task[Any]]:
    """Begin a call that goes by the loop's own connection: on a busy machine it may go far before it is awaited."""
    while True:
        call = ends.submit("S.hold")
        task = asyncio.ensure_future(_await(call))
        await until_async(lambda: service.begun.acquire(blocking=False))
        if call.carrier is not ends.link:
            return call, task
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def heard(near: Near) -> int:
    assert near.link is not None
    assert near.link.main is not None
    return near.link.main.bytes_in


# --- when there is one


def test_a_loop_that_calls_much_gets_a_connection_of_its_own_and_uses_it(ends: Ends, run: Run) -> None:
    async def scenario() -> None:
        near = await come_near(ends)
        assert near.link is not None
        before = heard(near), ends.link.bytes_heard()
        for n in range(100):
            assert await ends.submit("S.echo", n) == n
        assert heard(near) > before[0]
        assert ends.link.bytes_heard() == before[1]
        assert await asyncio.gather(*[ends.submit("S.echo", n) for n in range(500)]) == list(range(500))

    run(scenario())
    until(lambda: links(ends) == 1)


def test_a_few_calls_are_not_worth_it(ends: Ends, run: Run) -> None:
    async def scenario() -> None:
        for n in range(ENOUGH - 2):
            await ends.submit("S.echo", n)

    run(scenario())
    assert links(ends) == 1


def test_threads_and_the_links_own_loop_need_none(ends: Ends) -> None:
    async def scenario() -> None:
        for n in range(2 * ENOUGH):
            await ends.submit("S.echo", n)

    ends.link.reactor.run(scenario(), PATIENCE)
    for n in range(2 * ENOUGH):
        ends.call("S.echo", n)
    assert ends.link._nears == {}


def test_the_connection_ends_with_its_loop_and_the_next_loop_makes_its_own(ends: Ends, run: Run) -> None:
    for _ in range(3):

        async def scenario() -> None:
            await come_near(ends)
            await until_async(lambda: links(ends) == 2)

        run(scenario())
        until(lambda: links(ends) == 1)
    ends.call("S.echo")
    assert len(ends.link._nears) <= 3


def test_loops_that_take_turns_in_one_thread_have_a_connection_each(ends: Ends) -> None:
    with asyncio.Runner() as first, asyncio.Runner() as second:
        nears = [runner.run(come_near(ends)) for runner in (first, second)]
        assert nears[0] is not nears[1]
        for _ in range(3):
            for near, runner in zip(nears, (first, second), strict=True):
                before = [heard(other) for other in nears], ends.link.bytes_heard()
                assert runner.run(_echo(ends)) == 1
                after = [heard(other) for other in nears], ends.link.bytes_heard()
                assert [other for other, b, a in zip(nears, before[0], after[0], strict=True) if a > b] == [near]
                assert after[1] == before[1]
            ends.call("S.echo")  # from the same thread, while none of them runs


async def _echo(ends: Ends) -> Any:
    return await ends.submit("S.echo", 1)


def test_a_loop_that_another_thread_goes_on_with_is_called_from_there(ends: Ends) -> None:
    loop = asyncio.new_event_loop()
    try:
        near = loop.run_until_complete(come_near(ends))
        before = heard(near)
        there: list[object] = []
        thread = threading.Thread(target=lambda: there.append(loop.run_until_complete(_echo(ends))))
        thread.start()
        thread.join(PATIENCE)
        assert there == [1]
        assert ends.submit("S.echo", 2).result(PATIENCE) == 2
        assert loop.run_until_complete(_echo(ends)) == 1
        assert heard(near) > before
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_the_connection_takes_no_deadline_along(ends: Ends, service: Service, run: Run) -> None:
    seen: list[float | None] = []

    async def verdict(cause: BigmachineError) -> BaseException:
        seen.append(get_deadline())
        return cause

    async def scenario() -> None:
        with deadline(50):
            near = await come_near(ends)
        assert near.link is not None
        near.link.judge_with(verdict)
        task = asyncio.ensure_future(_await(ends.submit("S.hold")))
        await until_async(lambda: service.begun.acquire(blocking=False))
        assert near.link.main is not None
        near.link.main.abort()
        with pytest.raises(NetworkError):
            await task

    run(scenario())
    assert seen == [None]


async def _await(call: Call[Any]) -> Any:
    return await call


# --- what is true of a call holds for one that goes this way, too


def test_errors_streams_large_values_and_deadlines_come_this_way_too(ends: Ends, run: Run) -> None:
    async def scenario() -> None:
        await come_near(ends)
        with pytest.raises(LookupError, match="there"):
            await ends.submit("S.fail", LookupError("there"))
        assert [n async for n in await ends.submit("S.count", 1000)] == list(range(1000))
        for _ in range(2):
            assert await ends.submit("S.echo", bytes(300_000)) == bytes(300_000)
        with pytest.raises(DeadlineExceeded):
            await ends.submit("S.hold", timeout=0.02)

    run(scenario())


def test_cancelling_reaches_the_method(ends: Ends, service: Service, run: Run) -> None:
    async def scenario() -> None:
        await come_near(ends)
        task = asyncio.ensure_future(_await(ends.submit("S.hold")))
        await until_async(lambda: service.begun.acquire(blocking=False))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_async(service.told.is_set)

    run(scenario())


def test_a_lost_connection_fails_its_calls_by_the_owners_verdict_and_the_next_call_gets_through(
    ends: Ends, service: Service, run: Run
) -> None:
    async def verdict(cause: BigmachineError) -> BaseException:
        return NetworkError(f"judged: {cause}")

    ends.on_link(lambda: ends.link.judge_with(verdict))

    async def scenario() -> None:
        near = await come_near(ends)
        _, task = await held_near(ends, service)
        assert near.link is not None
        assert near.link.main is not None
        near.link.main.abort()
        with pytest.raises(NetworkError, match="judged: "):
            await task
        assert await ends.submit("S.echo", 1) == 1

    run(scenario())


def test_closing_the_link_fails_the_calls_of_every_loop(ends: Ends, service: Service, run: Run) -> None:
    async def scenario() -> None:
        await come_near(ends)
        task = asyncio.ensure_future(_await(ends.submit("S.hold")))
        await until_async(lambda: service.begun.acquire(blocking=False))
        ends.link.close(NetworkError("closed by the test"))
        with pytest.raises(NetworkError, match="closed by the test"):
            await task
        with pytest.raises(NetworkError, match="closed by the test"):
            await ends.submit("S.echo")

    run(scenario())


# --- nobody is left waiting


def test_a_loop_may_block_on_calls_that_it_has_submitted(ends: Ends, run: Run) -> None:
    async def scenario() -> None:
        await come_near(ends)
        calls = [ends.submit("S.echo", n) for n in range(10)]
        assert [call.result(PATIENCE) for call in calls] == list(range(10))
        calls = [ends.submit("S.echo", n) for n in range(10)]
        assert [call.result() for call in calls] == list(range(10))
        calls = [ends.submit("S.echo", n) for n in range(10)]
        assert len(concurrent.futures.wait(calls, PATIENCE).done) == 10
        calls = [ends.submit("S.echo", n) for n in range(10)]
        assert {call.result() for call in concurrent.futures.as_completed(calls, PATIENCE)} == set(range(10))
        call = ends.submit("S.echo", 5)
        while not call.done():
            time.sleep(0.001)  # noqa: ASYNC251 (blocking is the matter)
        assert call.exception(PATIENCE) is None

    run(scenario())


def test_callbacks_and_wrapped_futures_come_although_nobody_awaits_the_call(ends: Ends, run: Run) -> None:
    async def scenario() -> None:
        await come_near(ends)
        told = threading.Event()
        ends.submit("S.echo", 1).add_done_callback(lambda _: told.set())
        assert told.wait(PATIENCE)
        assert await asyncio.wrap_future(ends.submit("S.echo", 2)) == 2

    run(scenario())


def test_a_call_that_nobody_looks_at_is_sent_all_the_same(ends: Ends, service: Service, run: Run) -> None:
    async def scenario() -> None:
        await come_near(ends)
        for n in range(5):
            ends.submit("S.note", n)
            end = time.monotonic() + PATIENCE
            while n not in service.seen:  # the loop itself is blocked
                assert time.monotonic() < end
                time.sleep(0.001)  # noqa: ASYNC251 (blocking is the matter)

    run(scenario())


def test_waiting_in_the_loop_for_a_call_that_goes_by_its_own_connection_is_refused(
    ends: Ends, service: Service, run: Run
) -> None:
    async def scenario() -> None:
        await come_near(ends)
        call, task = await held_near(ends, service)
        with pytest.raises(BigmachineError, match="would stop the event loop that carries its answer"):
            call.result(PATIENCE)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    run(scenario())


def test_a_call_that_is_cancelled_before_anybody_claims_it_is_never_sent(
    ends: Ends, service: Service, run: Run
) -> None:
    async def scenario() -> None:
        await come_near(ends)
        call = ends.submit("S.note", "never")
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0.01)
        await ends.submit("S.echo")

    run(scenario())
    assert service.seen == []


def test_another_thread_may_wait_for_a_call_that_a_loop_offered(ends: Ends, run: Run) -> None:
    async def scenario() -> None:
        await come_near(ends)
        for n in range(20):
            call = ends.submit("S.echo", n)
            assert await asyncio.to_thread(call.result, PATIENCE) == n

    run(scenario())


def test_many_loops_at_once_each_get_their_answers(ends: Ends) -> None:
    wrong: list[object] = []

    async def scenario(me: int) -> None:
        got = [await ends.submit("S.echo", (me, n)) for n in range(2 * ENOUGH)]
        if got != [(me, n) for n in range(2 * ENOUGH)]:
            wrong.append(got)

    threads = [threading.Thread(target=lambda me=me: asyncio.run(scenario(me))) for me in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert wrong == []
    until(lambda: links(ends) == 1)


def test_within_a_process_awaited_calls_of_every_kind_go_by_the_servers_loop(service: Service, run: Run) -> None:
    with memory({"S": service}) as ends:

        async def scenario() -> None:
            for number in range(3 * ENOUGH):
                assert await ends.submit("S.note", number) == number  # a plain method
                assert await ends.submit("S.echo", number) == number
            assert sorted(cast(list[int], service.seen)) == list(range(3 * ENOUGH))

        run(scenario())
        assert not ends.link._nears
