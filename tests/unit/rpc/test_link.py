"""The calling side: when it dials, what a lost connection means for whom, and that `close` leaves nobody waiting."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bigmachine.errors import (
    AuthenticationError,
    BigmachineError,
    Cause,
    DeadlineExceeded,
    DeathCertificate,
    InvalidCall,
    MachineStopped,
    NetworkError,
)
from bigmachine.rpc import Call, Codec, Link, Reactor, Server, deadline
from bigmachine.rpc import link as link_module
from bigmachine.rpc.connection import Connection, Receiver
from bigmachine.rpc.context import get_deadline
from bigmachine.rpc.memory import MemoryDialer
from bigmachine.rpc.net import PeerGone
from bigmachine.rpc.wire import ERROR, LARGE, RESULT, STREAMED, small_frame
from tests.unit.rpc.ends import DRIVER, PATIENCE, Ends, memory, once_begun, until

BIG = bytes(3 * LARGE)


class Unbuildable:
    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _raise, (self._kind,)


def _raise(kind: type[BaseException]) -> object:
    raise kind("not here")


class Service:
    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.told = threading.Event()
        self.seen: list[object] = []

    def echo(self, value: object = None) -> object:
        return value

    async def echo_async(self, value: object = None) -> object:
        return value

    def note(self, value: object) -> None:
        self.seen.append(value)

    async def hold(self, value: object = None) -> None:
        self.begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.told.set()

    def unbuildable(self, kind: type[BaseException]) -> object:
        return Unbuildable(kind)

    def zeros(self, size: int) -> bytes:
        return bytes(size)

    def array(self, size: int) -> Any:
        return np.zeros(size, np.int8)

    def fail(self, exc: BaseException) -> None:
        raise exc


class Dials:
    """A dialer that counts, that can be held up, and that fails when told so."""

    def __init__(self, server: Server) -> None:
        self.count = 0
        self.failures: list[BaseException] = []
        self.go = threading.Event()
        self.go.set()
        self._inner = MemoryDialer(server, DRIVER, "m1")

    async def dial(self, reactor: Reactor, receiver: Receiver) -> Connection:
        self.count += 1
        while not self.go.is_set():  # noqa: ASYNC110 (a thread's event)
            await asyncio.sleep(0.001)
        if self.failures:
            raise self.failures.pop(0)
        return await self._inner.dial(reactor, receiver)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def ends(service: Service) -> Iterator[Ends]:
    with memory({"S": service}, dialer=Dials) as it:
        yield it
        dials(it).go.set()


def dials(ends: Ends) -> Dials:
    dialer = ends.link._dialer
    assert isinstance(dialer, Dials)
    return dialer


def begun(service: Service, n: int = 1) -> None:
    for _ in range(n):
        assert service.begun.acquire(timeout=PATIENCE), "it does not begin"


def settle(ends: Ends) -> None:
    """Let everything that is posted so far be done, and what it posts in turn."""
    for _ in range(3):
        ends.on_link(lambda: None)


# --- calling


def test_a_thousand_calls_in_flight_come_back_each_with_its_own_result(ends: Ends) -> None:
    for method in ("S.echo", "S.echo_async"):
        calls = [ends.submit(method, n) for n in range(1000)]
        assert [call.result(PATIENCE) for call in calls] == list(range(1000))


def test_many_threads_call_at_once(ends: Ends) -> None:
    wrong: list[object] = []

    def caller(me: int) -> None:
        got = [ends.call("S.echo_async", (me, n)) for n in range(100)]
        if got != [(me, n) for n in range(100)]:
            wrong.append(got)

    threads = [threading.Thread(target=caller, args=(me,)) for me in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert wrong == []


def test_the_loops_own_thread_calls_without_a_detour(ends: Ends) -> None:
    async def scenario() -> list[Any]:
        calls = [ends.submit("S.echo", n) for n in range(100)]
        return await asyncio.gather(*calls)

    assert ends.link.reactor.run(scenario(), PATIENCE) == list(range(100))


def test_a_call_that_begins_in_a_callback_of_another_is_carried(ends: Ends) -> None:
    second: list[Call[Any]] = []
    first = ends.submit("S.echo", 1)
    first.add_done_callback(lambda call: second.append(ends.submit("S.echo", call.result() + 1)))
    until(lambda: second)
    assert second[0].result(PATIENCE) == 2


def test_a_callback_that_quits_ends_nothing(ends: Ends) -> None:
    call = ends.submit("S.hold")
    call.add_done_callback(lambda _: _raise(SystemExit))
    failing = ends.submit("S.fail", LookupError())
    failing.add_done_callback(lambda _: _raise(SystemExit))
    assert isinstance(failing.exception(PATIENCE), LookupError)
    assert ends.call("S.echo", 1) == 1
    call.cancel()
    until(lambda: len(ends.complaints) == 2)
    ends.complaints.clear()


def test_link_call_waits_for_the_result(ends: Ends) -> None:
    assert ends.link.call("S.echo", 5) == 5
    with pytest.raises(DeadlineExceeded):
        ends.link.call("S.hold", timeout=0.01)


@pytest.mark.parametrize("kind", [LookupError, SystemExit])
def test_a_result_that_cannot_be_rebuilt_is_an_invalid_call(ends: Ends, kind: type[BaseException]) -> None:
    with pytest.raises(InvalidCall, match=rf"the result of S\.unbuildable could not be rebuilt here: {kind.__name__}"):
        ends.call("S.unbuildable", kind)
    assert ends.call("S.echo", 1) == 1


def test_results_and_errors_above_this_sides_limit_fail_their_call_alone(service: Service) -> None:
    with memory({"S": service}, codec=Codec(limit=100_000)) as ends:
        with pytest.raises(
            InvalidCall, match=r"the result of S\.zeros on m1 has 200,\d\d\d bytes, above the limit of 100,000.*limit=N"
        ):
            ends.call("S.zeros", 200_000)
        with pytest.raises(
            BigmachineError, match=r"an error of \d+,\d+ bytes, above the limit of 100,000 here"
        ) as caught:
            ends.call("S.fail", LookupError("x" * 60_000))
        assert "in the call S.fail" in caught.value.__notes__[0]
        assert ends.call("S.echo", 1) == 1


def test_an_argument_that_cannot_be_pickled_fails_at_once_and_leaves_no_trace(ends: Ends) -> None:
    with pytest.raises(InvalidCall, match=r"an argument of S\.echo cannot be pickled"):
        ends.submit("S.echo", threading.Lock())
    with pytest.raises(InvalidCall, match=r"an argument of S\.echo cannot be pickled"):
        ends.submit("S.echo", iter([1]), threading.Lock())
    assert ends.is_idle()


def test_large_arguments_are_logged_once_a_minute_at_most(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(link_module, "_LARGE_CALL", 100_000)
    with caplog.at_level(logging.WARNING, "bigmachine.rpc"):
        for _ in range(3):
            ends.call("S.note", BIG)
    assert [record.getMessage() for record in caplog.records] == [
        "the arguments of S.note to m1 have 0 MiB: a stream needs less memory"
    ]


def test_a_call_that_cannot_be_begun_on_the_loop_fails_and_is_forgotten(ends: Ends) -> None:
    ends.call("S.echo")

    def tamper(link: object, call: Call[Any], encoded: object) -> bool:
        raise ZeroDivisionError("no call today")

    ends.link.tamper_with(tamper)
    with pytest.raises(BigmachineError, match=r"S\.echo could not be carried on: ZeroDivisionError: no call") as caught:
        ends.call("S.echo")
    assert type(caught.value.__cause__) is ZeroDivisionError
    ends.link.tamper_with(None)
    assert ends.call("S.echo", 1) == 1
    until(ends.is_idle)
    assert "a posted call failed" in ends.complaints.pop()


# --- deadlines


def test_a_deadline_that_has_passed_sends_nothing(ends: Ends, service: Service) -> None:
    with deadline(-1), pytest.raises(DeadlineExceeded, match=r"S\.note was not sent: its deadline had passed"):
        ends.submit("S.note", 1)
    ends.call("S.echo")
    assert service.seen == []


@pytest.mark.parametrize(("around", "timeout"), [(0.02, None), (0.02, 50), (50, 0.02)])
def test_the_earlier_of_deadline_and_timeout_counts(ends: Ends, around: float, timeout: float | None) -> None:
    with deadline(around), pytest.raises(DeadlineExceeded, match=r"had no outcome within 0\.0[12]"):
        ends.call("S.hold", timeout=timeout)


def test_a_deadline_holds_while_the_link_is_being_dialled(ends: Ends, service: Service) -> None:
    dials(ends).go.clear()
    with pytest.raises(DeadlineExceeded):
        ends.call("S.note", 1, timeout=0.02)
    dials(ends).go.set()
    ends.call("S.note", 2)
    assert service.seen == [2]


def test_a_deadline_needs_no_reply_of_a_peer_that_is_mute(ends: Ends) -> None:
    ends.call("S.echo")

    def mute() -> None:
        assert ends.link.main is not None
        assert ends.link.main._transport is not None
        ends.link.main._transport.pause_reading()

    ends.on_link(mute)
    with pytest.raises(DeadlineExceeded):
        ends.call("S.echo", timeout=0.02)


# --- dialling


def test_the_first_call_dials_and_the_next_ones_use_it(ends: Ends) -> None:
    assert dials(ends).count == 0
    calls = [ends.submit("S.echo", n) for n in range(10)]
    assert [call.result(PATIENCE) for call in calls] == list(range(10))
    assert dials(ends).count == 1


def test_calls_wait_in_order_for_the_connection(ends: Ends, service: Service) -> None:
    dials(ends).go.clear()
    calls = [ends.submit("S.note", n) for n in range(5)]
    settle(ends)
    calls[2].cancel()
    settle(ends)
    dials(ends).go.set()
    for n in (0, 1, 3, 4):
        calls[n].result(PATIENCE)
    assert sorted(service.seen) == [0, 1, 3, 4]  # type: ignore[type-var]  # ints


@pytest.mark.parametrize("failure", [NetworkError("no way"), AuthenticationError("not you"), PeerGone("gone")])
def test_a_dial_that_fails_fails_the_calls_that_wait_each_with_its_own_copy(
    ends: Ends, failure: BigmachineError
) -> None:
    dials(ends).go.clear()
    dials(ends).failures.append(failure)
    calls = [ends.submit("S.echo", n) for n in range(3)]
    settle(ends)
    dials(ends).go.set()
    errors = [call.exception(PATIENCE) for call in calls]
    assert [type(error) for error in errors] == [type(failure)] * 3
    assert [str(error) for error in errors] == [str(failure)] * 3
    assert len({id(error) for error in errors}) == 3
    assert ends.call("S.echo", 1) == 1
    assert dials(ends).count == 2


def test_a_dialer_that_breaks_is_logged_and_a_network_error_to_who_waits(ends: Ends) -> None:
    dials(ends).failures.append(ZeroDivisionError("a defect"))
    with pytest.raises(NetworkError, match="dialling m1 failed: a defect"):
        ends.call("S.echo")
    assert "dialling m1 failed" in ends.complaints.pop()
    assert ends.call("S.echo", 1) == 1


def test_a_dial_takes_no_deadline_along(ends: Ends) -> None:
    seen: list[float | None] = []
    ends.link.on_up = lambda: seen.append(get_deadline())
    ends.link.on_down = lambda _: seen.append(get_deadline())

    async def verdict(cause: BigmachineError) -> BaseException:
        seen.append(get_deadline())
        return cause

    ends.link.judge_with(verdict)
    with deadline(50):
        ends.call("S.echo")
        call = ends.submit("S.hold")
    ends.cut()
    assert isinstance(call.exception(PATIENCE), NetworkError)
    assert seen == [None] * 3


# --- a link that is held


def test_a_held_link_sends_only_what_is_urgent_until_it_is_released(service: Service) -> None:
    with memory({"S": service}, is_held=True) as ends:
        calls = [ends.submit("S.note", n) for n in range(3)]
        assert ends.link.submit("S.echo", (7,), {}, is_urgent=True).result(PATIENCE) == 7
        assert service.seen == []
        calls[1].cancel()
        with pytest.raises(DeadlineExceeded):
            ends.call("S.note", 9, timeout=0.01)
        ends.on_link(ends.link.release)
        calls[0].result(PATIENCE)
        calls[2].result(PATIENCE)
        assert sorted(service.seen) == [0, 2]  # type: ignore[type-var]  # ints
        assert ends.call("S.echo", 1) == 1


def test_a_held_call_is_not_lost_with_a_connection_that_it_was_not_sent_over(service: Service) -> None:
    with memory({"S": service}, is_held=True) as ends:
        call = ends.submit("S.echo", 5)
        assert ends.link.submit("S.echo", (7,), {}, is_urgent=True).result(PATIENCE) == 7
        ends.cut()
        settle(ends)
        ends.on_link(ends.link.release)
        assert call.result(PATIENCE) == 5


# --- a connection that is lost


def test_when_the_connection_is_lost_calls_fail_and_the_next_call_dials_anew(ends: Ends, service: Service) -> None:
    calls = [ends.submit("S.hold") for _ in range(3)]
    begun(service, 3)
    ends.cut()
    errors = [call.exception(PATIENCE) for call in calls]
    assert [type(error) for error in errors] == [NetworkError] * 3
    assert len({id(error) for error in errors}) == 3
    assert ends.call("S.echo", 1) == 1
    assert dials(ends).count == 2


def test_the_owner_is_told_of_ups_and_downs(ends: Ends, service: Service) -> None:
    seen: list[str] = []
    ends.link.on_up = lambda: seen.append("up")
    ends.link.on_down = lambda cause: seen.append(type(cause).__name__)
    call = ends.submit("S.hold")
    begun(service)
    ends.cut()
    assert isinstance(call.exception(PATIENCE), NetworkError)
    ends.call("S.echo")
    assert seen == ["up", "NetworkError", "up"]
    ends.link.close(NetworkError("over"))
    settle(ends)
    assert seen == ["up", "NetworkError", "up"]


def test_the_verdict_is_what_the_calls_get(ends: Ends, service: Service) -> None:
    stopped = MachineStopped(DeathCertificate(Cause.OOM, "m1"))
    causes: list[BigmachineError] = []

    async def verdict(cause: BigmachineError) -> BaseException:
        causes.append(cause)
        await asyncio.sleep(0)
        return stopped

    ends.link.judge_with(verdict)
    calls = [ends.submit("S.hold") for _ in range(2)]
    begun(service, 2)
    ends.cut()
    errors = [call.exception(PATIENCE) for call in calls]
    assert all(isinstance(error, MachineStopped) and error.certificate == stopped.certificate for error in errors)
    assert errors[0] is not errors[1]
    assert [type(cause) for cause in causes] == [NetworkError]


def test_a_verdict_that_fails_leaves_the_calls_with_the_loss_itself(ends: Ends, service: Service) -> None:
    async def verdict(cause: BigmachineError) -> BaseException:
        raise ZeroDivisionError("a defect")

    ends.link.judge_with(verdict)
    call = ends.submit("S.hold")
    begun(service)
    ends.cut()
    assert isinstance(call.exception(PATIENCE), NetworkError)
    assert "what the loss of the connection to m1 means could not be found out" in ends.complaints.pop()


def judged_for_ever(ends: Ends) -> threading.Event:
    asked = threading.Event()

    async def verdict(cause: BigmachineError) -> BaseException:
        asked.set()
        await asyncio.Event().wait()
        return cause

    ends.link.judge_with(verdict)
    return asked


def test_a_deadline_holds_while_a_loss_is_being_judged(ends: Ends, service: Service) -> None:
    asked = judged_for_ever(ends)

    def attempt(seconds: float) -> None:
        call = ends.submit("S.hold", timeout=seconds)
        has_begun = service.begun.acquire(timeout=seconds / 2)
        if has_begun:
            ends.cut()
            assert asked.wait(PATIENCE)
            service.begun.release()
        with pytest.raises(DeadlineExceeded):
            call.result(PATIENCE)

    once_begun(service.begun, attempt)
    for task in ends.on_link(lambda: [t for t in asyncio.all_tasks() if t.get_name() == "judge m1"]):
        ends.on_link(task.cancel)


def test_closing_fails_the_calls_whose_loss_is_being_judged(ends: Ends, service: Service) -> None:
    asked = judged_for_ever(ends)
    call = ends.submit("S.hold")
    begun(service)
    ends.cut()
    assert asked.wait(PATIENCE)
    ends.link.close(NetworkError("closed by the test"))
    with pytest.raises(NetworkError, match="closed by the test"):
        call.result(PATIENCE)
    for task in ends.on_link(lambda: [t for t in asyncio.all_tasks() if t.get_name() == "judge m1"]):
        ends.on_link(task.cancel)


def test_the_server_knows_the_connection_that_follows_a_lost_one_by_another_token(ends: Ends, service: Service) -> None:
    ends.call("S.echo")
    first = {channel.token for channel in ends.server.channels}
    call = ends.submit("S.hold")
    begun(service)
    ends.cut()
    with pytest.raises(NetworkError):
        call.result(PATIENCE)
    ends.call("S.echo")
    second = {channel.token for channel in ends.server.channels}
    assert first != second
    assert ends.call("S.echo", BIG) == BIG
    assert service.told.wait(PATIENCE)


# --- the two lanes


def lanes(ends: Ends) -> tuple[int, int]:
    """The bytes that went by the main lane and by the bulk lane, both ways."""
    main, bulk = ends.link.main, ends.link.bulk
    return (
        0 if main is None else main.bytes_in + main.bytes_out,
        0 if bulk is None else bulk.bytes_in + bulk.bytes_out,
    )


def test_large_arguments_and_results_go_by_a_second_connection(ends: Ends) -> None:
    assert ends.call("S.echo", BIG) == BIG
    main, bulk = ends.on_link(lambda: lanes(ends))
    assert main < 1000
    assert bulk > 2 * len(BIG)
    assert dials(ends).count == 2
    assert ends.call("S.echo", BIG) == BIG
    assert dials(ends).count == 2
    assert len(ends.server.channels) == 1


@pytest.mark.parametrize("method", ["zeros", "array"])
def test_after_one_large_result_the_next_one_goes_by_the_second_connection(ends: Ends, method: str) -> None:
    assert len(ends.call(f"S.{method}", len(BIG))) == len(BIG)
    until(lambda: ends.link.bulk)
    before = ends.on_link(lambda: lanes(ends))
    assert len(ends.call(f"S.{method}", len(BIG))) == len(BIG)
    after = ends.on_link(lambda: lanes(ends))
    assert after[0] - before[0] < 1000
    assert after[1] - before[1] > len(BIG)


def test_small_arrays_open_no_second_connection(ends: Ends) -> None:
    for _ in range(3):
        ends.call("S.array", 100)
        ends.call("S.echo", np.zeros(100))
    assert dials(ends).count == 1


def test_where_no_second_connection_is_to_be_had_the_first_carries_all(ends: Ends) -> None:
    ends.call("S.echo")
    dials(ends).failures.append(NetworkError("only one"))
    assert ends.call("S.echo", BIG) == BIG
    assert ends.on_link(lambda: lanes(ends))[0] > 2 * len(BIG)


def test_a_large_call_that_is_cancelled_before_its_lane_is_there_is_never_sent(ends: Ends, service: Service) -> None:
    ends.call("S.echo")
    dials(ends).go.clear()
    call = ends.submit("S.note", BIG)
    settle(ends)
    call.cancel()
    settle(ends)
    dials(ends).go.set()
    ends.call("S.echo", BIG)
    assert service.seen == []


def test_a_large_call_that_is_cancelled_reaches_its_method(ends: Ends, service: Service) -> None:
    call = ends.submit("S.hold", BIG)
    begun(service)
    call.cancel()
    assert service.told.wait(PATIENCE)


def test_a_cancellation_does_not_overtake_its_large_call(ends: Ends, service: Service) -> None:
    ends.call("S.echo", BIG)  # the lane is there

    async def scenario() -> None:
        call = ends.submit("S.hold", BIG)
        call.cancel()

    for _ in range(5):
        ends.link.reactor.run(scenario(), PATIENCE)
    ends.call("S.echo", BIG)
    ends.call("S.echo")
    assert ends.on_server(lambda: [channel.runs for channel in ends.server.channels]) == [{}]


def test_a_large_call_that_waits_for_its_lane_outlives_the_connection(ends: Ends, service: Service) -> None:
    ends.call("S.echo")
    dials(ends).go.clear()
    call = ends.submit("S.echo", BIG)
    settle(ends)
    ends.cut()
    settle(ends)
    dials(ends).go.set()
    assert call.result(PATIENCE) == BIG


def test_when_the_bulk_lane_is_lost_so_is_the_link_because_frames_may_be_missing(ends: Ends, service: Service) -> None:
    ends.call("S.echo", BIG)
    call = ends.submit("S.hold")
    begun(service)

    def cut() -> None:
        assert ends.link.bulk is not None
        ends.link.bulk.abort()

    ends.on_link(cut)
    with pytest.raises(NetworkError):
        call.result(PATIENCE)
    assert ends.call("S.echo", BIG) == BIG


# --- closing


def over(ends: Ends, how: str) -> None:
    error = MachineStopped(DeathCertificate(Cause.CANCELLED, "m1"))
    if how == "from another thread":
        ends.link.close(error)
    else:
        ends.on_link(lambda: ends.link.close(error))


@pytest.mark.parametrize("how", ["from another thread", "on the loop"])
def test_closing_fails_everything_that_is_pending_and_all_that_comes_later(
    ends: Ends, service: Service, how: str
) -> None:
    running = [ends.submit("S.hold") for _ in range(2)]
    begun(service, 2)
    dials(ends).go.clear()
    for_bulk = ends.submit("S.echo", BIG)
    settle(ends)
    over(ends, how)
    later = ends.submit("S.echo")
    errors = [call.exception(PATIENCE) for call in (*running, for_bulk, later)]
    assert [type(error) for error in errors] == [MachineStopped] * 4
    assert len({id(error) for error in errors}) == 4
    assert service.told.wait(PATIENCE)
    ends.link.close(NetworkError("again"))
    assert isinstance(ends.submit("S.echo").exception(PATIENCE), MachineStopped)


def test_closing_fails_what_waits_for_a_connection_or_is_held(service: Service) -> None:
    with memory({"S": service}, is_held=True, dialer=Dials) as ends:
        dials(ends).go.clear()
        held = ends.submit("S.echo")
        waiting = ends.link.submit("S.echo", (), {}, is_urgent=True)
        settle(ends)
        over(ends, "from another thread")
        assert isinstance(held.exception(PATIENCE), MachineStopped)
        assert isinstance(waiting.exception(PATIENCE), MachineStopped)
        dials(ends).go.set()


def test_closing_a_link_that_never_dialled_is_no_error(ends: Ends) -> None:
    ends.link.close(NetworkError("over"))
    assert isinstance(ends.submit("S.echo").exception(PATIENCE), NetworkError)
    assert dials(ends).count == 0


def test_closing_in_the_callback_of_a_call_among_others_is_no_error(ends: Ends, service: Service) -> None:
    async def scenario() -> list[Call[Any]]:
        calls = [ends.submit("S.echo_async", n) for n in range(10)]
        calls[0].add_done_callback(lambda _: ends.link.close(NetworkError("closed in between")))
        return calls

    calls = ends.link.reactor.run(scenario(), PATIENCE)
    assert calls[0].result(PATIENCE) == 0
    for n, call in enumerate(calls[1:], 1):
        outcome = call.exception(PATIENCE) or call.result()
        assert outcome == n or "closed in between" in str(outcome)


def test_a_call_after_the_loop_has_ended_fails_instead_of_waiting(service: Service) -> None:
    with memory({"S": service}) as ends:
        ends.call("S.echo")
    assert "the test is over" in str(ends.submit("S.echo").exception(PATIENCE))
    reactor = Reactor.in_thread("test-io")
    unused = Link(reactor, MemoryDialer(None, DRIVER, "m1"), name="m1")
    reactor.stop()
    with pytest.raises(NetworkError, match="the event loop of the link to m1 has ended"):
        unused.submit("S.echo", (), {}).result(PATIENCE)
    unused.close(NetworkError("over"))


def test_a_loop_that_ends_under_a_call_releases_its_caller(service: Service) -> None:
    reactor = Reactor.in_thread("test-io")
    with memory({"S": service}) as ends:
        other = Link(reactor, MemoryDialer(None, DRIVER, "m9"), name="m9")
        with pytest.raises(NetworkError, match="m9 is not there any more"):
            other.submit("S.echo", (), {}).result(PATIENCE)
        call = other.submit("S.echo", (), {})
        reactor.stop()
        assert isinstance(call.exception(PATIENCE), NetworkError)
        assert ends.call("S.echo", 1) == 1


@pytest.mark.parametrize("kind", [RESULT, ERROR])
def test_a_call_whose_outcome_cannot_be_understood_ends_with_its_connection(ends: Ends, kind: int) -> None:
    call = ends.submit("S.hold")
    settle(ends)
    ends.on_link(lambda: _receive(ends, small_frame(kind, STREAMED, call.ident, b"no")))
    with pytest.raises(NetworkError, match="could not be understood"):
        call.result(PATIENCE)
    assert ends.call("S.echo", 1) == 1


def _receive(ends: Ends, frame: bytes) -> None:
    assert ends.link.main is not None
    ends.link.main.get_buffer(-1)[: len(frame)] = frame
    ends.link.main.buffer_updated(len(frame))


# --- statistics


def test_what_comes_out_of_band_is_counted_as_the_server_counts_it(ends: Ends) -> None:
    for _ in range(2):
        ends.call("S.zeros", 200_000)
    until(lambda: ends.link.statistics.snapshot()["S.zeros"].bytes_in > 400_000)
    here, there = ends.link.statistics.snapshot()["S.zeros"], ends.server.statistics.snapshot()["S.zeros"]
    assert here.bytes_in <= there.bytes_out < 401_000


def counted(ends: Ends) -> tuple[int, int]:
    told = ends.link.statistics.snapshot().get("S.hold")
    return (told.calls, told.errors) if told is not None else (0, 0)


def test_a_call_that_ends_by_deadline_cancellation_or_loss_is_counted_once_as_an_error(
    ends: Ends, service: Service
) -> None:
    with pytest.raises(DeadlineExceeded):
        ends.call("S.hold", timeout=0.01)
    settle(ends)
    assert counted(ends) == (1, 1)
    assert ends.submit("S.hold").cancel()
    settle(ends)
    call = ends.submit("S.hold")
    settle(ends)
    assert call.cancel()
    settle(ends)
    before = counted(ends)[0]
    assert before in (2, 3)  # one that is given up before it begins is none
    assert counted(ends) == (before, before)
    lost = ends.submit("S.hold")
    settle(ends)
    ends.cut()
    with pytest.raises(NetworkError):
        lost.result(PATIENCE)
    assert counted(ends) == (before + 1, before + 1)


def test_a_call_that_could_not_be_dialled_or_whose_link_is_closed_is_counted_once_as_an_error(ends: Ends) -> None:
    dials(ends).failures.append(NetworkError("no route"))
    with pytest.raises(NetworkError):
        ends.call("S.hold")
    assert counted(ends) == (1, 1)
    call = ends.submit("S.hold")
    settle(ends)
    ends.link.close(NetworkError("closed"))
    with pytest.raises(NetworkError):
        call.result(PATIENCE)
    settle(ends)
    assert counted(ends) == (2, 2)
