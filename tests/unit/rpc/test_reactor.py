"""The event loop of a process: posts in order from any thread, coalesced, and nothing left at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from bigmachine.errors import InvalidCall
from bigmachine.rpc import reactor as reactor_module
from bigmachine.rpc.context import deadline, get_deadline
from bigmachine.rpc.reactor import Reactor, new_event_loop

PATIENCE = 5.0


@pytest.fixture(params=["uvloop", "asyncio"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which event loop reactors are made of."""
    if request.param == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)
    return str(request.param)


@pytest.fixture
def reactor(loops: str) -> Iterator[Reactor]:
    it = Reactor.in_thread("test-io")
    yield it
    it.stop()


def here(reactor: Reactor, function: Callable[[], object]) -> object:
    """Have something done on the loop and wait for it."""

    async def do() -> object:
        return function()

    return reactor.run(do(), PATIENCE)


def test_the_loop_is_uvloops_where_it_is_installed_and_asyncios_otherwise(loops: str) -> None:
    loop = new_event_loop()
    try:
        assert type(loop).__module__.startswith(loops)
    finally:
        loop.close()


def test_posts_of_a_thread_run_on_the_loop_in_order(reactor: Reactor) -> None:
    seen: list[int] = []
    threads: set[int] = set()
    done = threading.Event()

    def note(n: int) -> None:
        seen.append(n)
        threads.add(threading.get_ident())

    for n in range(1000):
        reactor.post(note, n)
    reactor.post(done.set)
    assert done.wait(PATIENCE)
    assert seen == list(range(1000))
    assert threads == {reactor.thread_id}
    assert reactor.thread_id != threading.get_ident()
    assert not reactor.is_here


def test_posts_of_many_threads_all_run_each_threads_in_order(reactor: Reactor) -> None:
    seen: list[tuple[int, int]] = []
    many, each = 8, 2000
    done = threading.Semaphore(0)

    def poster(me: int) -> None:
        for n in range(each):
            reactor.post(seen.append, (me, n))
        reactor.post(done.release)

    threads = [threading.Thread(target=poster, args=(me,)) for me in range(many)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert done.acquire(timeout=PATIENCE)
    for thread in threads:
        thread.join()
    assert len(seen) == many * each
    for me in range(many):
        assert [n for who, n in seen if who == me] == list(range(each))


def test_a_lone_post_wakes_the_loop_every_time(reactor: Reactor) -> None:
    for _ in range(500):
        done = threading.Event()
        reactor.post(done.set)
        assert done.wait(PATIENCE)


def test_a_post_made_while_posts_are_worked_off_runs_after_them(reactor: Reactor) -> None:
    seen: list[str] = []
    done = threading.Event()

    def first() -> None:
        reactor.post(seen.append, "third")
        reactor.post(done.set)
        seen.append("first")

    async def both() -> None:
        reactor.post(first)
        reactor.post(seen.append, "second")

    reactor.run(both(), PATIENCE)
    assert done.wait(PATIENCE)
    assert seen == ["first", "second", "third"]


def test_a_post_that_raises_is_logged_and_the_next_one_runs(reactor: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()

    def fail() -> None:
        raise ValueError("odd")

    with caplog.at_level(logging.ERROR, "bigmachine.rpc"):
        reactor.post(fail)
        reactor.post(done.set)
        assert done.wait(PATIENCE)
    assert "a posted call failed" in caplog.text
    assert "ValueError: odd" in caplog.text


def test_what_is_posted_or_spawned_knows_nothing_of_the_deadline_around_it(reactor: Reactor) -> None:
    """A connection, a keepalive or a verdict lives longer than the call that happened to begin it."""
    seen: dict[str, float | None] = {}
    done = threading.Event()

    async def look(what: str) -> None:
        seen[what] = get_deadline()

    def posted() -> None:
        seen["post"] = get_deadline()
        reactor.spawn(look("spawned by a post"))

    async def on_loop() -> None:
        with deadline(100):
            reactor.post(posted)
            task = reactor.spawn(look("spawned"))
        await task

    with deadline(100):
        reactor.post(posted)
        reactor.run(on_loop(), PATIENCE)
        reactor.post(reactor.loop.call_soon, done.set)
    assert done.wait(PATIENCE)
    assert seen == {"post": None, "spawned by a post": None, "spawned": None}


# --- the cork


class Gathering:
    def __init__(self) -> None:
        self.flushed = 0
        self.aborted = 0

    def flush(self) -> None:
        self.flushed += 1

    def abort(self) -> None:
        self.aborted += 1


def test_what_posts_gather_is_flushed_once_when_all_are_worked_off(reactor: Reactor) -> None:
    connection = Gathering()
    corked: list[tuple[bool, int]] = []
    done = threading.Event()

    def write() -> None:
        corked.append((reactor.corked, connection.flushed))
        if not reactor.dirty:
            reactor.dirty.append(connection)

    async def both() -> None:
        reactor.post(write)
        reactor.post(write)

    reactor.run(both(), PATIENCE)
    reactor.post(done.set)
    assert done.wait(PATIENCE)
    assert corked == [(True, 0), (True, 0)]
    assert connection.flushed == 1
    assert here(reactor, lambda: (reactor.corked, reactor.dirty)) == (False, [])


def test_waiters_of_another_loop_are_woken_by_one_wake_up_a_batch(reactor: Reactor) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        waiters = [loop.create_future() for _ in range(50)]

        def wake_all() -> None:
            for waiter in waiters:
                reactor.wake(waiter)

        reactor.post(wake_all)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*waiters)

    asyncio.run(scenario())
    assert here(reactor, lambda: reactor._wakes) == {}


@pytest.mark.parametrize("where", ["its own thread", "another thread"])
def test_a_waiter_is_woken_from_wherever_the_outcome_comes(reactor: Reactor, where: str) -> None:
    async def wait_here() -> None:
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        waker: Callable[[], None] = lambda: reactor.wake(waiter)  # noqa: E731 (short)
        if where == "its own thread":
            loop.call_soon(waker)
        else:
            threading.Thread(target=waker).start()
        async with asyncio.timeout(PATIENCE):
            await waiter

    reactor.run(wait_here(), PATIENCE)
    asyncio.run(wait_here())


def test_waking_a_loop_that_has_closed_is_no_error(reactor: Reactor) -> None:
    loop = asyncio.new_event_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    loop.close()
    reactor.wake(waiter)
    done = threading.Event()
    reactor.post(reactor.wake, waiter)
    reactor.post(done.set)
    assert done.wait(PATIENCE)


# --- tasks


def test_a_spawned_task_that_fails_is_logged_by_its_name(reactor: Reactor, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("odd")

    async def scenario() -> None:
        task = reactor.spawn(fail(), "the odd one")
        await asyncio.wait([task])

    with caplog.at_level(logging.ERROR, "bigmachine.rpc"):
        reactor.run(scenario(), PATIENCE)
    assert "the odd one failed" in caplog.text


def test_run_returns_or_raises_what_the_coroutine_does(reactor: Reactor) -> None:
    async def answer(what: object) -> object:
        if isinstance(what, Exception):
            raise what
        return what

    assert reactor.run(answer(3), PATIENCE) == 3
    with pytest.raises(KeyError):
        reactor.run(answer(KeyError("k")), PATIENCE)


def test_run_gives_up_after_its_time_and_cancels(reactor: Reactor) -> None:
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        reactor.run(forever(), 0.01)
    assert cancelled.wait(PATIENCE)


def test_run_on_the_loops_own_thread_is_refused(reactor: Reactor) -> None:
    async def answer() -> int:
        return 1

    async def scenario() -> None:
        assert reactor.is_here
        reactor.run(answer(), PATIENCE)

    with pytest.raises(RuntimeError, match="would wait for the event loop in its own thread"):
        reactor.run(scenario(), PATIENCE)


# --- the end


def test_stopping_leaves_no_thread_no_descriptor_and_no_task(loops: str) -> None:
    Reactor.in_thread("test-io").stop()  # what is opened once for good
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    reactor = Reactor.in_thread("test-io")
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    async def generate() -> None:
        async def items() -> object:
            try:
                yield 1
                yield 2
            finally:
                ended.append("generator")

        async for _ in items():  # type: ignore[attr-defined]  # an async generator
            await asyncio.Event().wait()

    async def begin() -> None:
        reactor.spawn(forever())
        reactor.spawn(generate())
        await asyncio.sleep(0)

    reactor.run(begin(), PATIENCE)
    reactor.stop()
    assert sorted(ended) == ["generator", "task"]
    assert reactor.loop.is_closed()
    assert [t for t in threading.enumerate() if t.name == "test-io"] == []
    after = set(os.listdir("/proc/self/fd")) if before else set()
    assert after == before


def test_stopping_aborts_the_connections_that_are_still_open(loops: str) -> None:
    reactor = Reactor.in_thread("test-io")

    class Closing(Gathering):
        def abort(self) -> None:
            super().abort()
            reactor.loop.call_soon(reactor.connections.discard, self)

    closing, stubborn = Closing(), Gathering()
    here(reactor, lambda: reactor.connections.update((closing, stubborn)))
    reactor.stop()
    assert closing.aborted == 1
    assert stubborn.aborted > 1
    assert reactor.loop.is_closed()


def test_stopping_twice_and_from_several_threads_is_no_error(loops: str) -> None:
    reactor = Reactor.in_thread("test-io")
    threads = [threading.Thread(target=reactor.stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    reactor.stop()
    assert reactor.loop.is_closed()


def test_every_post_after_the_end_raises(loops: str) -> None:
    reactor = Reactor.in_thread("test-io")
    reactor.stop()
    for _ in range(3):
        with pytest.raises(RuntimeError):
            reactor.post(print)


def test_a_post_that_does_not_raise_runs_also_when_the_loop_is_just_ending(loops: str) -> None:
    for _ in range(10):
        reactor = Reactor.in_thread("test-io")
        ran: list[int] = []
        accepted: list[int] = []
        begun = threading.Event()

        def poster(reactor: Reactor, ran: list[int], accepted: list[int], begun: threading.Event) -> None:
            for n in range(100_000):
                try:
                    reactor.post(ran.append, n)
                except RuntimeError:
                    return
                accepted.append(n)
                begun.set()

        thread = threading.Thread(target=poster, args=(reactor, ran, accepted, begun))
        thread.start()
        assert begun.wait(PATIENCE)
        reactor.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert ran[: len(accepted)] == accepted
        assert len(ran) <= len(accepted) + 1  # the one that was told may have run all the same


def test_what_is_posted_while_the_loop_closes_runs_and_wakes_nobody_who_waits_on_it() -> None:
    loop = new_event_loop()
    reactor = Reactor(loop)
    waiter = loop.create_future()
    ran = threading.Event()
    loop.close()
    for function, args in ((reactor.wake, (waiter,)), (ran.set, ())):
        with pytest.raises(RuntimeError):
            reactor.post(function, *args)
    reactor._work_off()  # the last thing that a reactor's thread does
    assert ran.is_set()
    assert (waiter.done(), reactor.woken) == (False, [])


def test_a_loop_that_has_an_exception_handler_keeps_it() -> None:
    loop = asyncio.new_event_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    Reactor(loop)
    loop.call_exception_handler({"message": "x"})
    loop.close()
    assert told == [{"message": "x"}]


def test_a_connection_that_fails_is_not_shown_to_people_but_everything_else_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = asyncio.new_event_loop()
    Reactor(loop)
    with caplog.at_level(logging.WARNING):
        loop.call_exception_handler({"message": "hidden", "exception": ConnectionResetError(), "transport": 1})
        loop.call_exception_handler({"message": "also", "exception": ConnectionResetError, "transport": 1})
        assert caplog.text == ""
        loop.call_exception_handler({"message": "shown", "exception": ValueError(), "transport": 1})
        loop.call_exception_handler({"message": "and this", "exception": OSError()})
    loop.close()
    assert "shown" in caplog.text
    assert "and this" in caplog.text


def test_a_reactor_of_a_running_loop_ends_with_it() -> None:
    async def scenario() -> None:
        reactor = Reactor(asyncio.get_running_loop())
        done = asyncio.Event()
        threading.Thread(target=lambda: reactor.post(done.set)).start()
        async with asyncio.timeout(PATIENCE):
            await done.wait()
        reactor.stop()  # it is not the reactor's to stop

    asyncio.run(scenario())


def test_a_loop_that_is_ended_by_an_error_still_cleans_up(caplog: pytest.LogCaptureFixture) -> None:
    reactor = Reactor.in_thread("test-io")
    thread = reactor._thread
    assert thread is not None

    def interrupt() -> None:
        raise KeyboardInterrupt

    hook, threading.excepthook = threading.excepthook, lambda args: None
    try:
        with contextlib.suppress(RuntimeError):
            reactor.loop.call_soon_threadsafe(interrupt)
        thread.join(PATIENCE)
    finally:
        threading.excepthook = hook
    assert not thread.is_alive()
    assert reactor.loop.is_closed()
    reactor.stop()


def test_the_module_makes_nothing_at_import() -> None:
    assert not any(isinstance(value, Reactor) for value in vars(reactor_module).values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_refused_rather_than_left_waiting_for_a_thread_that_is_not_there() -> None:
    reactor = Reactor.in_thread()
    try:
        pid = os.fork()
        if pid == 0:
            try:
                reactor.post(print)
            except InvalidCall:
                os._exit(3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    finally:
        reactor.stop()


class Sleeper:
    def __init__(self, *, waits: bool) -> None:
        self.lock = threading.Lock() if waits else None
        if self.lock is not None:
            self.lock.acquire()


def test_threads_that_wait_are_woken_two_at_once_and_who_does_not_any_more_is_passed_over(reactor: Reactor) -> None:
    sleepers = [Sleeper(waits=waits) for waits in (False, True, False, False, True, False, True, True)]
    locks = [sleeper.lock for sleeper in sleepers if sleeper.lock is not None]

    def rouse_all() -> None:
        for sleeper in sleepers:
            reactor.rouse(sleeper)
        assert all(lock.locked() for lock in locks)  # the rest of the batch comes first

    reactor.post(rouse_all)
    here(reactor, lambda: None)
    assert [lock.locked() for lock in locks] == [False, False, True, True]
    reactor.pass_on()
    assert [lock.locked() for lock in locks] == [False, False, False, True]
    reactor.pass_on()
    reactor.pass_on()
    assert not any(lock.locked() for lock in locks)
