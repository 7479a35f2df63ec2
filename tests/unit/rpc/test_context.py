"""Deadlines nest, and a method knows its call; both follow tasks and copies of the context."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

import pytest

from bigmachine.errors import InvalidCall
from bigmachine.rpc import Call, CallInfo, current_call, deadline
from bigmachine.rpc.context import get_deadline, remaining, set_current


def in_own_context(function: object, *args: object) -> None:
    contextvars.Context().run(function, *args)  # type: ignore[arg-type]  # any callable


def test_without_a_deadline_nothing_remains_to_be_known() -> None:
    assert remaining() is None
    assert get_deadline() is None


def test_a_deadline_holds_inside_its_block_alone() -> None:
    with deadline(100):
        left = remaining()
        assert left is not None
        assert 99 < left <= 100
    assert remaining() is None


@pytest.mark.parametrize(("outer", "inner"), [(50, 100), (100, 50)])
def test_of_nested_deadlines_the_earliest_counts_and_the_outer_one_returns(outer: float, inner: float) -> None:
    with deadline(outer):
        before = get_deadline()
        with deadline(inner):
            left = remaining()
            assert left is not None
            assert 49 < left <= 50
        assert get_deadline() == before


def test_a_deadline_ends_with_its_block_also_by_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), deadline(1):
        _ = 1 / 0
    assert remaining() is None


def test_a_deadline_that_has_passed_leaves_less_than_nothing() -> None:
    with deadline(-1):
        left = remaining()
        assert left is not None
        assert left < 0


@pytest.mark.parametrize("seconds", [math.nan, "1", None])
def test_a_deadline_that_is_no_number_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidCall, match=r"deadline\(.*\): give a number of seconds"), deadline(seconds):
        raise AssertionError("it was taken")
    assert remaining() is None


def test_an_infinite_deadline_is_none_but_the_outer_one() -> None:
    with deadline(math.inf):
        assert remaining() is None
    with deadline(100):
        before = get_deadline()
        with deadline(math.inf):
            assert get_deadline() == before


def test_a_deadline_follows_into_tasks_and_not_into_other_threads() -> None:
    seen: list[float | None] = []

    async def look() -> None:
        seen.append(remaining())

    async def scenario() -> None:
        with deadline(100):
            task = asyncio.create_task(look())
        await task

    asyncio.run(scenario())
    with deadline(100):
        thread = threading.Thread(target=lambda: seen.append(remaining()))
        thread.start()
        thread.join()
    assert seen[0] is not None
    assert seen[1] is None


def test_outside_a_method_there_is_no_current_call() -> None:
    with pytest.raises(InvalidCall, match="only known inside a service's method"):
        current_call()


def test_a_method_sees_who_called_for_which_session_and_how_long() -> None:
    session = object()
    info = CallInfo("driver", session, time.monotonic() + 10)

    def method() -> None:
        set_current(info)
        call = current_call()
        assert (call.caller, call.session) == ("driver", session)
        left = call.remaining()
        assert left is not None
        assert 9 < left <= 10
        assert not call.cancelled()

    in_own_context(method)


def test_a_call_without_a_deadline_has_no_remaining_time() -> None:
    assert CallInfo("driver", None, None).remaining() is None


def test_after_the_deadline_nothing_remains_and_the_call_counts_as_cancelled() -> None:
    info = CallInfo("driver", None, time.monotonic() - 1)
    assert info.remaining() == 0.0
    assert info.cancelled()


def test_a_cancelled_call_says_so() -> None:
    info = CallInfo("driver", None, None)
    info.cancel()
    assert info.cancelled()


def test_a_cancellation_reaches_the_calls_that_the_method_waits_for() -> None:
    info = CallInfo("driver", None, None)
    waited, over = Call[int](), Call[int]()
    info.wait_for(over)
    info.wait_for(waited)
    info.leave_off(over)
    info.cancel()
    assert (waited.cancelled(), over.cancelled()) == (True, False)


def test_a_method_that_could_not_know_of_its_cancellation_does_not_begin_to_wait() -> None:
    info = CallInfo("driver", None, None)
    info.cancel()
    call = Call[int]()
    info.wait_for(call)
    assert call.cancelled()


@pytest.mark.parametrize("tell", [CallInfo.cancelled, lambda info: info.wait_for(Call[int]())], ids=["seen", "waiting"])
def test_a_method_that_knows_of_its_cancellation_may_call_others_to_clean_up(
    tell: Callable[[CallInfo], object],
) -> None:
    info = CallInfo("driver", None, None)
    info.cancel()
    tell(info)
    call = Call[int]()
    info.wait_for(call)
    assert not call.cancelled()


def test_a_thread_that_waits_in_a_cancelled_method_is_released() -> None:
    info = CallInfo("driver", None, None)
    call = Call[int]()
    ends: list[BaseException] = []

    def method() -> None:
        set_current(info)
        try:
            call.result()
        except CancelledError as error:
            ends.append(error)

    thread = threading.Thread(target=method)
    thread.start()
    while not info._waited:
        time.sleep(0.001)
    info.cancel()
    thread.join(5)
    assert len(ends) == 1
    assert not info._waited
