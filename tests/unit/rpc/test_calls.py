"""A `Call` is a future for every kind of waiter, and whoever waits is woken, whatever races against what."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from bigmachine.errors import BigmachineError, DeadlineExceeded
from bigmachine.rpc.calls import Call
from bigmachine.rpc.reactor import Reactor
from tests.unit.rpc.ends import until

PATIENCE = 5.0


class Carrier:
    """Stands for the link: notes what is given up."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.given_up: list[Call[Any]] = []

    def give_up(self, call: Call[Any]) -> None:
        self.given_up.append(call)


@pytest.fixture(scope="module")
def reactor() -> Iterator[Reactor]:
    it = Reactor.in_thread("test-io")
    yield it
    it.stop()


@pytest.fixture
def carrier(reactor: Reactor) -> Carrier:
    return Carrier(reactor)


@pytest.fixture
def call(carrier: Carrier) -> Call[int]:
    return Call(7, "S.m", carrier)


def soon(function: Callable[[], object]) -> threading.Thread:
    """Do something in another thread, a moment later: whoever waits is waiting by then, mostly."""
    thread = threading.Timer(0.005, function)
    thread.start()
    return thread


def in_thread(function: Callable[[], object]) -> Callable[[], object]:
    """Run something in a thread; the result is a function that waits for it and returns what it returned."""
    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(_caught(function)), daemon=True)
    thread.start()

    def join() -> object:
        thread.join(PATIENCE)
        assert outcome, "it still waits"
        return outcome[0]

    return join


def _caught(function: Callable[[], object]) -> object:
    try:
        return function()
    except BaseException as exc:  # noqa: BLE001 (the outcome)
        return type(exc)


# --- its face


def test_a_new_call_is_pending(call: Call[int]) -> None:
    assert (call.done(), call.running(), call.cancelled()) == (False, True, False)
    assert repr(call) == "<Call S.m #7 pending>"


def test_a_finished_call_has_its_result(call: Call[int]) -> None:
    assert call.finish(3)
    assert (call.done(), call.running(), call.cancelled()) == (True, False, False)
    assert (call.result(), call.result(0), call.exception(), call.outcome()) == (3, 3, None, 3)
    assert repr(call) == "<Call S.m #7 finished>"


def test_a_failed_call_raises_what_it_failed_with(call: Call[int]) -> None:
    error = KeyError("k")
    assert call.fail(error)
    assert call.exception() is error
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            call.result()
        assert caught.value is error
    assert repr(call) == "<Call S.m #7 raised KeyError>"


def test_a_cancelled_call_raises_cancelled_error_and_tells_its_link_once(call: Call[int], carrier: Carrier) -> None:
    assert call.cancel()
    assert call.cancel()
    assert (call.done(), call.running(), call.cancelled()) == (True, False, True)
    for ask in (call.result, call.exception):
        with pytest.raises(CancelledError):
            ask()
    assert carrier.given_up == [call]
    assert repr(call) == "<Call S.m #7 cancelled>"


def test_the_first_outcome_is_kept(call: Call[int], carrier: Carrier) -> None:
    assert call.finish(1)
    assert not call.finish(2)
    assert not call.fail(ValueError())
    assert not call.cancel()
    assert call.result() == 1
    assert carrier.given_up == []
    with pytest.raises(concurrent.futures.InvalidStateError):
        call.set_result(2)
    with pytest.raises(concurrent.futures.InvalidStateError):
        call.set_exception(ValueError())


def test_results_can_be_set_as_on_any_future() -> None:
    call: Call[int] = Call()
    call.set_result(4)
    assert call.result() == 4
    failed: Call[int] = Call()
    failed.set_exception(KeyError())
    assert isinstance(failed.exception(), KeyError)


def test_a_call_by_function_is_shown_as_people_write_it() -> None:
    call: Call[int] = Call(1, "@pkg.mod:Calc.add")
    assert (call.name, repr(call)) == ("Calc.add", "<Call Calc.add #1 pending>")


# --- threads that wait


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_a_waiting_thread_gets_the_result(call: Call[int], timeout: float | None) -> None:
    soon(lambda: call.finish(3))
    assert call.result(timeout) == 3


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_a_waiting_thread_gets_the_error_or_the_cancellation(carrier: Carrier, timeout: float | None) -> None:
    failing: Call[int] = Call(1, "S.m", carrier)
    soon(lambda: failing.fail(KeyError("k")))
    with pytest.raises(KeyError):
        failing.result(timeout)
    cancelled: Call[int] = Call(2, "S.m", carrier)
    soon(cancelled.cancel)
    with pytest.raises(CancelledError):
        cancelled.exception(timeout)


def test_a_wait_that_is_too_long_is_a_deadline_exceeded_which_is_a_timeout_error(call: Call[int]) -> None:
    for ask in (call.result, call.exception):
        with pytest.raises(TimeoutError, match=r"S\.m had no outcome within 0\.01 s") as caught:
            ask(0.01)
        assert type(caught.value) is DeadlineExceeded
    assert not call.done()
    call.finish(3)
    assert call.result(0) == 3


def test_a_wait_of_no_time_does_not_wait(call: Call[int]) -> None:
    for timeout in (0, -1):
        with pytest.raises(DeadlineExceeded):
            call.result(timeout)


def test_many_threads_wait_for_one_call_each_in_its_way(call: Call[int]) -> None:
    async def await_it() -> int:
        return await call

    waiting = [
        in_thread(call.result),
        in_thread(call.result),
        in_thread(lambda: call.result(PATIENCE)),
        in_thread(lambda: call.exception() or 3),
        in_thread(lambda: concurrent.futures.wait([call], PATIENCE).done.pop().result()),
        in_thread(lambda: next(concurrent.futures.as_completed([call], PATIENCE)).result()),
        in_thread(lambda: asyncio.run(await_it())),
        in_thread(lambda: asyncio.run(await_it())),
    ]
    soon(lambda: call.finish(3))
    assert [wait() for wait in waiting] == [3] * len(waiting)


def test_a_thread_that_was_interrupted_while_it_waited_can_wait_again(call: Call[int]) -> None:
    class Interrupted(BaseException):
        pass

    lock = threading.Lock

    class Interrupting:
        """A lock whose second acquire is interrupted, as Ctrl-C does it."""

        def __init__(self) -> None:
            self.lock = lock()
            self.count = 0

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            self.count += 1
            if self.count == 2:
                raise Interrupted
            return self.lock.acquire(blocking, timeout)

        def release(self) -> None:
            self.lock.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bigmachine.rpc.calls.threading.Lock", Interrupting)
        with pytest.raises(Interrupted):
            call.result()
    again = in_thread(call.result)
    soon(lambda: call.finish(3))
    assert again() == 3


def test_a_signal_that_does_not_wake_the_main_thread_is_handled_all_the_same(call: Call[int]) -> None:
    before = signal.signal(signal.SIGUSR1, lambda number, frame: call.finish(3))
    try:
        # To another thread: as when one comes just before the main thread sleeps, its sleep is not cut short.
        sent = soon(lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
        late = threading.Timer(10, call.finish, (4,))
        late.start()
        assert call.result() == 3
        late.cancel()
        sent.join(10)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_waiting_on_the_loop_that_carries_the_call_is_refused_because_nothing_would_come(
    call: Call[int], reactor: Reactor
) -> None:
    async def on_loop(ask: Callable[..., object], *args: object) -> None:
        ask(*args)

    for ask in (call.result, call.exception, call.wait):
        for args in ((), (PATIENCE,)):
            with pytest.raises(BigmachineError, match="would stop the event loop that carries its answer"):
                reactor.run(on_loop(ask, *args), PATIENCE)
    call.finish(3)
    reactor.run(on_loop(call.result), PATIENCE)


# --- concurrent.futures and asyncio


def test_wait_and_as_completed_see_calls_as_they_end(carrier: Carrier) -> None:
    calls: list[Call[int]] = [Call(n, "S.m", carrier) for n in range(4)]
    calls[2].finish(2)
    first = concurrent.futures.wait(calls, PATIENCE, concurrent.futures.FIRST_COMPLETED)
    assert first.done == {calls[2]}
    soon(lambda: (calls[1].fail(KeyError()), calls[3].cancel(), calls[0].finish(0)))
    assert set(concurrent.futures.as_completed(calls, PATIENCE)) == set(calls)
    assert concurrent.futures.wait(calls, PATIENCE).not_done == set()


def test_an_outcome_that_comes_as_somebody_begins_to_wait_is_told_once(carrier: Carrier) -> None:
    call: Call[int] = Call(1, "S.m", carrier)
    other: Call[int] = Call(2, "S.m", carrier)
    call.unclaimed.pop()
    call._result = 3
    call._now = "FINISHED"  # as `finish` does it in another thread, which pauses here
    waiting = in_thread(lambda: concurrent.futures.wait([call, other], PATIENCE))
    until(lambda: other._cond is not None and other._waiters)
    call._notify()  # and goes on
    soon(lambda: other.finish(0))
    outcome = waiting()
    assert isinstance(outcome, concurrent.futures._base.DoneAndNotDoneFutures)
    assert outcome.not_done == set()


def test_wait_for_the_first_exception_returns_with_it(carrier: Carrier) -> None:
    calls: list[Call[int]] = [Call(n, "S.m", carrier) for n in range(3)]
    soon(lambda: (calls[0].finish(0), calls[1].fail(KeyError())))
    done, not_done = concurrent.futures.wait(calls, PATIENCE, concurrent.futures.FIRST_EXCEPTION)
    assert calls[1] in done
    assert calls[2] in not_done


def test_wait_gives_up_after_its_time_and_leaves_no_trace(call: Call[int]) -> None:
    assert concurrent.futures.wait([call], 0.01).not_done == {call}
    assert call._waiters == []
    call.finish(3)
    assert concurrent.futures.wait([call], PATIENCE).done == {call}


@pytest.mark.parametrize("outcome", ["finished", "failed", "cancelled"])
def test_asyncio_wrap_future_passes_the_outcome_on(call: Call[int], outcome: str) -> None:
    async def scenario() -> object:
        wrapped = asyncio.wrap_future(call)
        soon(
            {"finished": lambda: call.finish(3), "failed": lambda: call.fail(KeyError()), "cancelled": call.cancel}[
                outcome
            ]
        )
        (result,) = await asyncio.wait_for(asyncio.gather(wrapped, return_exceptions=True), PATIENCE)
        return result if isinstance(result, int) else type(result)

    expected = {"finished": 3, "failed": KeyError, "cancelled": asyncio.CancelledError}[outcome]
    assert asyncio.run(scenario()) == expected


def test_cancelling_what_wrap_future_made_cancels_the_call(call: Call[int], carrier: Carrier) -> None:
    async def scenario() -> None:
        asyncio.wrap_future(call).cancel()
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert call.cancelled()
    assert carrier.given_up == [call]


# --- awaiting


def test_a_call_that_is_done_is_awaited_without_a_pause(call: Call[int]) -> None:
    call.finish(3)
    with pytest.raises(StopIteration) as ended:
        call.__await__().send(None)
    assert ended.value.value == 3


@pytest.mark.parametrize("outcome", ["finished", "failed"])
def test_an_awaited_call_gives_its_outcome(call: Call[int], outcome: str) -> None:
    async def scenario() -> object:
        soon(lambda: call.finish(3) if outcome == "finished" else call.fail(KeyError()))
        async with asyncio.timeout(PATIENCE):
            return await call

    if outcome == "finished":
        assert asyncio.run(scenario()) == 3
    else:
        with pytest.raises(KeyError):
            asyncio.run(scenario())


def test_a_call_that_is_cancelled_from_outside_is_a_cancelled_error_to_whoever_awaits_it(call: Call[int]) -> None:
    async def await_it() -> None:
        await call

    async def scenario() -> None:
        task = asyncio.create_task(await_it())
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(scenario())


def test_cancelling_the_task_that_awaits_a_call_cancels_the_call(call: Call[int], carrier: Carrier) -> None:
    async def await_it() -> None:
        await call

    async def scenario() -> None:
        task = asyncio.create_task(await_it())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert call.cancelled()
    assert carrier.given_up == [call]


def test_a_timeout_around_an_awaited_call_cancels_it(call: Call[int], carrier: Carrier) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(0.001):
            await call

    with pytest.raises(TimeoutError):
        asyncio.run(scenario())
    assert carrier.given_up == [call]


def test_several_tasks_and_loops_await_one_call(call: Call[int], reactor: Reactor) -> None:
    async def await_it() -> int:
        return await call

    async def three() -> list[int]:
        return await asyncio.gather(*(await_it() for _ in range(3)))

    waiting = [in_thread(lambda: asyncio.run(three())) for _ in range(2)]
    waiting.append(in_thread(lambda: reactor.run(three(), PATIENCE)))
    soon(lambda: call.finish(3))
    assert [wait() for wait in waiting] == [[3] * 3] * 3


def test_an_outcome_for_a_loop_that_has_closed_is_no_error(call: Call[int]) -> None:
    loop = asyncio.new_event_loop()
    awaiting = call.__await__()

    async def begin() -> None:
        awaiting.send(None)

    loop.run_until_complete(begin())
    loop.close()
    assert call.finish(3)
    assert call.result() == 3
    awaiting.close()


def test_many_calls_are_gathered(carrier: Carrier, reactor: Reactor) -> None:
    async def scenario() -> list[int]:
        calls: list[Call[int]] = [Call(n, "S.m", carrier) for n in range(1000)]

        def finish_all() -> None:
            for n, call in enumerate(calls):
                call.finish(n)

        reactor.post(finish_all)
        async with asyncio.timeout(PATIENCE):
            return await asyncio.gather(*calls)

    assert asyncio.run(scenario()) == list(range(1000))


# --- callbacks


def test_callbacks_run_once_in_order_with_the_call(call: Call[int]) -> None:
    seen: list[tuple[str, Call[int]]] = []
    call.add_done_callback(lambda c: seen.append(("a", c)))
    call.add_done_callback(lambda c: seen.append(("b", c)))
    assert seen == []
    call.finish(3)
    assert seen == [("a", call), ("b", call)]
    call.add_done_callback(lambda c: seen.append(("c", c)))
    assert seen[2:] == [("c", call)]


def test_a_callback_may_add_another_and_see_the_outcome(call: Call[int]) -> None:
    seen: list[object] = []
    call.add_done_callback(lambda c: c.add_done_callback(lambda c: seen.append(c.result())))
    call.finish(3)
    assert seen == [3]


def test_a_callback_that_raises_is_logged_and_the_next_one_runs(
    call: Call[int], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[object] = []

    def fail(_: object) -> None:
        raise ValueError("odd")

    call.add_done_callback(fail)
    call.add_done_callback(seen.append)
    with caplog.at_level(logging.ERROR, "bigmachine.rpc"):
        call.finish(3)
    assert seen == [call]
    assert "a callback of <Call S.m #7 finished> failed" in caplog.text


@pytest.mark.parametrize("outcome", ["finished", "failed", "cancelled"])
def test_callbacks_run_whatever_the_outcome(call: Call[int], outcome: str) -> None:
    seen: list[object] = []
    call.add_done_callback(seen.append)
    {"finished": lambda: call.finish(3), "failed": lambda: call.fail(KeyError()), "cancelled": call.cancel}[outcome]()
    assert seen == [call]


# --- memory


class Outcome(Exception):
    """Can be watched."""


@pytest.mark.parametrize("how", ["result", "error", "awaited"])
def test_a_call_that_is_dropped_is_gone_at_once_with_its_outcome(carrier: Carrier, how: str) -> None:
    outcome = Outcome()
    gone = weakref.ref(outcome)
    call: Call[Any] = Call(1, "S.m", carrier)
    gc.collect()
    gc.disable()
    try:
        if how == "result":
            call.finish(outcome)
            call.result()
        else:
            call.fail(outcome)
            with contextlib.suppress(Outcome):
                if how == "error":
                    call.result()
                else:
                    call.__await__().send(None)
        del outcome, call
        assert gone() is None
    finally:
        gc.enable()


# --- races

ROUNDS = 800
#: Longer than the whole race may take: a waiter that is only released by its time counts as left behind.
FAR_TOO_LONG = 60.0


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads change places as often as the interpreter lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class Race:
    """Actors that do each something to the same call, all at the same time, round after round."""

    def __init__(self, carrier: Carrier, actors: dict[str, Callable[[Call[int]], object]]) -> None:
        self.calls: list[Call[int]] = [Call(n, "S.m", carrier) for n in range(ROUNDS)]
        self.outcomes: dict[str, list[object]] = {name: [] for name in actors}
        self._start = threading.Barrier(len(actors))
        self._threads = [
            threading.Thread(target=self._act, args=(name, act), name=f"race {name}", daemon=True)
            for name, act in actors.items()
        ]

    def run(self) -> dict[str, list[object]]:
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + 4 * PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        stuck = {t.name: len(self.outcomes[t.name[5:]]) for t in self._threads if t.is_alive()}
        self._start.abort()
        assert not stuck, f"these wait for ever, in that round: {stuck}"
        return self.outcomes

    def _act(self, name: str, act: Callable[[Call[int]], object]) -> None:
        for call in self.calls:
            try:
                self._start.wait()
            except threading.BrokenBarrierError:
                return
            self.outcomes[name].append(_caught(lambda call=call: act(call)))  # type: ignore[misc]  # bound now


def awaiting() -> Callable[[Call[int]], object]:
    """An actor with an event loop of its own."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def await_it(call: Call[int]) -> int:
        return await call

    def act(call: Call[int]) -> object:
        if not loops:
            loops.append(asyncio.new_event_loop())
        result = _caught(lambda: loops[0].run_until_complete(await_it(call)))
        if call.ident == ROUNDS - 1:
            loops[0].close()
        return CancelledError if result is asyncio.CancelledError else result

    return act


def by_callback(call: Call[int]) -> object:
    """An actor that is told, and counts how often."""
    told: list[object] = []
    done = threading.Event()

    def tell(ended: Any) -> None:
        told.append(_caught(ended.result))
        done.set()

    call.add_done_callback(tell)
    assert done.wait(FAR_TOO_LONG), "never told"
    return told[0] if len(told) == 1 else told


WAITERS: dict[str, Callable[[Call[int]], object]] = {
    "result": lambda call: call.result(),
    "result too": lambda call: call.result(),
    "result in time": lambda call: call.result(FAR_TOO_LONG),
    "callback": by_callback,
}


def by_wait(how: str) -> Callable[[Call[int]], object]:
    def act(call: Call[int]) -> object:
        done, not_done = concurrent.futures.wait([call], FAR_TOO_LONG, how)
        assert not not_done
        return done.pop().result()

    return act


def by_completed(call: Call[int]) -> object:
    """An actor that is given each of several once."""
    other: Call[int] = Call(0, "S.other")
    seen = []
    for ended in concurrent.futures.as_completed([call, other], FAR_TOO_LONG):
        seen.append(ended)
        if ended is call:
            other.finish(0)
    assert seen == [call, other]
    return call.result()


@pytest.mark.usefixtures("restless")
def test_no_waiter_is_left_behind_when_all_come_as_the_outcome_does(carrier: Carrier) -> None:
    actors = {**WAITERS, "finish": lambda call: call.finish(3)}
    outcomes = Race(carrier, actors).run()
    assert set(outcomes.pop("finish")) == {True}
    for name, got in outcomes.items():
        assert got == [3] * ROUNDS, name


@pytest.mark.usefixtures("restless")
def test_the_standard_librarys_waiters_are_told_once_when_they_come_as_the_outcome_does(carrier: Carrier) -> None:
    actors = {
        "all": by_wait(concurrent.futures.ALL_COMPLETED),
        "first": by_wait(concurrent.futures.FIRST_COMPLETED),
        "exception": by_wait(concurrent.futures.FIRST_EXCEPTION),
        "completed": by_completed,
        "finish": lambda call: call.finish(3),
    }
    outcomes = Race(carrier, actors).run()
    assert set(outcomes.pop("finish")) == {True}
    for name, got in outcomes.items():
        assert got == [3] * ROUNDS, name


@pytest.mark.usefixtures("restless")
def test_no_loop_is_left_behind_when_several_begin_to_await_at_once(carrier: Carrier) -> None:
    actors = {"finish": lambda call: call.finish(3), **{f"loop {n}": awaiting() for n in range(4)}}
    outcomes = Race(carrier, actors).run()
    assert set(outcomes.pop("finish")) == {True}
    for name, got in outcomes.items():
        assert got == [3] * ROUNDS, name


@pytest.mark.usefixtures("restless")
def test_a_result_and_a_cancellation_at_once_leave_one_outcome_that_all_see(carrier: Carrier) -> None:
    actors: dict[str, Callable[[Call[int]], object]] = {
        "finish": lambda call: call.finish(3),
        "fail": lambda call: call.fail(KeyError()),
        "cancel": lambda call: (call.cancel(), call.cancelled()),
        "result": lambda call: call.result(),
        "result in time": lambda call: call.result(FAR_TOO_LONG),
        "callback": by_callback,
        "loop": awaiting(),
    }
    race = Race(carrier, actors)
    outcomes = race.run()
    kinds = set()
    for n, call in enumerate(race.calls):
        won = [name for name in ("finish", "fail") if outcomes[name][n] is True]
        kind = {("finish",): 3, ("fail",): KeyError, (): CancelledError}[tuple(won)]
        kinds.add(kind)
        assert outcomes["cancel"][n] == (kind is CancelledError, kind is CancelledError)
        assert [outcomes[name][n] for name in ("result", "result in time", "callback", "loop")] == [kind] * 4, n
        assert call.done()
    assert carrier.given_up == [call for call in race.calls if call.cancelled()]
    assert len(kinds) > 1, "nothing was raced"


# --- many threads that wait


def test_threads_whose_outcomes_come_together_are_all_woken(carrier: Carrier) -> None:
    for _ in range(20):
        calls: list[Call[int]] = [Call(n, "S.m", carrier) for n in range(30)]
        waiting = [in_thread(call.result) for call in calls]
        for call in calls:  # one batch: what is posted while the first runs is worked off with it
            carrier.reactor.post(call.finish, call.ident)
        assert [wait() for wait in waiting] == list(range(30))


@pytest.mark.parametrize("attempt", range(10))
@pytest.mark.parametrize("when", ["before", "as it is woken"])
def test_a_thread_that_is_interrupted_as_it_waits_does_not_keep_the_others_from_waking(
    carrier: Carrier, when: str, attempt: int, interrupts: Callable[[threading.Event], None]
) -> None:
    calls: list[Call[int]] = [Call(n, "S.m", carrier) for n in range(6)]
    waiting = [in_thread(call.result) for call in calls[1:]]
    all_wait = threading.Event()

    def finish_all() -> None:
        for call in calls:
            call.finish(call.ident)

    def begin() -> None:
        until(lambda: all(call.lock is not None for call in calls))
        if when != "before":
            carrier.reactor.post(finish_all)
        all_wait.set()

    interrupts(all_wait)
    threading.Thread(target=begin).start()
    with pytest.raises(KeyboardInterrupt):
        time.sleep(calls[0].result() + PATIENCE)  # the outcome may come first
    assert calls[0].lock is None
    if when == "before":
        carrier.reactor.post(finish_all)
    assert [wait() for wait in waiting] == list(range(1, 6))


# --- the futures of tasks on the loop that carries their calls, which are used again


def answer(reactor: Reactor, *calls: Call[Any]) -> None:
    """Let calls end as a batch of frames does."""
    reactor.corked = True
    for call in calls:
        call.finish(call.ident, reactor.woken)
    reactor.uncork()


async def _awaited(call: Call[Any]) -> Any:
    return await call


@pytest.mark.skipif(
    hasattr(asyncio, "future_discard_from_awaited_by"), reason="there each call has a future of its own"
)
def test_calls_one_after_the_other_are_awaited_on_the_same_future() -> None:
    async def main() -> None:
        carrier = Carrier(Reactor(asyncio.get_running_loop()))
        used = []
        for ident in range(3):
            call: Call[Any] = Call(ident, "S.m", carrier)
            task = asyncio.create_task(_awaited(call))
            await asyncio.sleep(0)
            used.append(call._waiter)
            asyncio.get_running_loop().call_soon(answer, carrier.reactor, call)
            assert await task == ident
        assert used[0] is used[1] is used[2]

    asyncio.run(main())


def test_a_task_that_is_cancelled_as_its_outcome_comes_leaves_others_their_own() -> None:
    async def main() -> None:
        carrier = Carrier(Reactor(asyncio.get_running_loop()))
        for _ in range(3):
            calls: list[Call[Any]] = [Call(ident, "S.m", carrier) for ident in range(4)]
            tasks = [asyncio.create_task(_awaited(call)) for call in calls]
            await asyncio.sleep(0)

            def both(calls: list[Call[Any]] = calls, tasks: list[asyncio.Task[Any]] = tasks) -> None:
                tasks[1].cancel()
                answer(carrier.reactor, *calls)
                tasks[2].cancel()  # it is done already

            asyncio.get_running_loop().call_soon(both)
            outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
            assert [outcomes[0], *outcomes[2:]] == [0, 2, 3]
            assert isinstance(outcomes[1], asyncio.CancelledError)

    asyncio.run(main())


def test_a_task_that_goes_on_to_wait_for_something_else_is_not_woken_by_its_last_call() -> None:
    async def main() -> None:
        carrier = Carrier(Reactor(asyncio.get_running_loop()))
        first, second = Call[Any](1, "S.m", carrier), Call[Any](2, "S.m", carrier)

        async def one_after_the_other() -> list[Any]:
            return [await first, await asyncio.sleep(0.01, "slept"), await second]

        task = asyncio.create_task(one_after_the_other())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(answer, carrier.reactor, first)
        await asyncio.sleep(0.005)
        other: Call[Any] = Call(3, "S.m", carrier)
        beside = asyncio.create_task(_awaited(other))
        await asyncio.sleep(0.02)
        assert not task.done()
        asyncio.get_running_loop().call_soon(answer, carrier.reactor, other)
        assert await beside == 3
        assert not task.done()
        asyncio.get_running_loop().call_soon(answer, carrier.reactor, second)
        assert await asyncio.wait_for(task, PATIENCE) == [1, "slept", 2]

    asyncio.run(main())
