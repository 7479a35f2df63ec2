"""Lone calls by a connection that a thread of the machine serves: what goes that way, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from bigmachine.errors import BigmachineError, DeadlineExceeded, InvalidCall, NetworkError
from bigmachine.rpc import Call, Codec, current_call
from bigmachine.rpc.waiting import solo as module
from bigmachine.rpc.waiting.solo import Solo
from bigmachine.rpc.wire import BY_LOOP, ERROR, ITEM, PING, PONG, RESULT, small_frame
from tests.unit.rpc.ends import PATIENCE, Ends, memory, tls, until

THREAD = "bigmachine-direct"


class Service:
    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.told = threading.Event()
        self.go = threading.Event()

    def echo(self, value: object = None) -> object:
        return value

    def where(self) -> str:
        return threading.current_thread().name

    async def where_async(self) -> str:
        return threading.current_thread().name

    def fail(self) -> None:
        raise KeyError("as asked")

    def size(self, n: int) -> bytes:
        return bytes(n)

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    def count_when_told(self, n: int) -> Iterator[int]:
        self.begun.release()
        assert self.go.wait(PATIENCE)
        return iter(range(n))

    def hold(self) -> None:
        """Go on until nobody wants it any more, and then until it is let go."""
        self.begun.release()
        while not current_call().cancelled():
            time.sleep(0.001)
        self.told.set()
        assert self.go.wait(PATIENCE)

    async def hold_async(self) -> None:
        self.begun.release()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            self.told.set()


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=["thread", "loop"])
def ends(service: Service, request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Both ends, the machine's with a thread for the connection or with too few threads for that."""
    with tls({"S": service}, threads=256 if request.param == "thread" else 3) as ends:
        connect(ends)
        yield ends
        service.go.set()


@pytest.fixture
def served(service: Service) -> Iterator[Ends]:
    """Both ends, with a thread for the connection."""
    with tls({"S": service}) as ends:
        connect(ends)
        yield ends
        service.go.set()


def solo_of(ends: Ends) -> Solo:
    solo = ends.link._solo
    assert solo is not None
    return solo


def connect(ends: Ends) -> None:
    ends.call("S.echo", 1)
    until(lambda: ends.link.is_ready)
    solo = solo_of(ends)

    def begin() -> None:
        solo._missed = module._WORTH_IT
        solo._not_before = 0.0

    ends.on_link(begin)
    ends.call("S.echo", 1)
    until(lambda: solo._connection is not None)


def alone(ends: Ends, method: str, *args: Any) -> Any:
    """Call by that connection, and by no other."""
    solo = solo_of(ends)
    assert solo._connection is not None
    before = solo._connection.bytes_out
    connection = solo._connection
    outcome = ends.call(method, *args)
    assert connection.bytes_out > before
    return outcome


def goes_alone(ends: Ends, method: str, *args: Any) -> bool:
    connection = solo_of(ends)._connection
    before = 0 if connection is None else connection.bytes_out
    ends.call(method, *args)
    return connection is not None and connection.bytes_out > before


def under_way(ends: Ends, service: Service, method: str, *args: Any, timeout: float | None = None) -> Call[Any]:
    call = ends.submit(method, *args, timeout=timeout)
    assert service.begun.acquire(timeout=PATIENCE)
    assert solo_of(ends)._under_way is call
    return call


def test_many_lone_calls_make_it_worth_a_connection(service: Service) -> None:
    with tls({"S": service}) as ends:
        ends.call("S.where")
        until(lambda: ends.link.is_ready)
        for _ in range(module._WORTH_IT - 1):
            assert ends.call("S.where") != THREAD
        assert solo_of(ends)._connecting is None
        ends.call("S.where")
        until(lambda: solo_of(ends)._connection is not None)
        assert ends.call("S.where") == THREAD


def test_where_there_is_no_socket_there_is_no_such_connection(service: Service) -> None:
    with memory({"S": service}) as ends:
        assert ends.link._solo is None


def test_values_and_errors_come_back(ends: Ends) -> None:
    assert alone(ends, "S.echo", {"a": [1, None]}) == {"a": [1, None]}
    with pytest.raises(KeyError, match="as asked") as caught:
        ends.call("S.fail")
    assert "in fail" in str(caught.traceback[-1])
    assert alone(ends, "S.echo", 2) == 2


@pytest.mark.parametrize("size", [0, 1, 5000, 70_000, 1_000_000])
def test_results_of_any_size_come_back(ends: Ends, size: int) -> None:
    assert alone(ends, "S.size", size) == bytes(size)
    assert alone(ends, "S.echo", 1) == 1


def test_what_returns_much_goes_by_the_loop_from_then_on(ends: Ends) -> None:
    size = module._LARGE + 1
    assert alone(ends, "S.size", size) == bytes(size)
    assert not goes_alone(ends, "S.size", 1)
    assert goes_alone(ends, "S.echo", 1)


def test_a_result_above_the_limit_is_an_invalid_call_with_both_sizes(service: Service) -> None:
    with tls({"S": service}, codec=Codec(limit=100_000)) as ends:
        connect(ends)
        with pytest.raises(InvalidCall, match=r"200,?0\d\d bytes, above the limit of 100,000"):
            alone(ends, "S.size", 200_000)
        assert ends.call("S.echo", 1) == 1


def test_methods_of_the_loop_go_by_it_from_the_second_call_on(served: Ends) -> None:
    assert alone(served, "S.where_async") != THREAD
    assert not goes_alone(served, "S.where_async")
    alone(served, "S.where")  # a method that is called for the first time is looked up by the loop
    assert alone(served, "S.where") == THREAD


def test_a_connection_that_is_of_no_use_is_closed(served: Ends) -> None:
    served.call("S.where_async")
    for _ in range(module._NOT_WORTH_IT):
        assert solo_of(served)._connection is not None
        served.call("S.where_async")
    assert solo_of(served)._connection is None
    assert solo_of(served)._missed == 0
    assert served.call("S.echo", 1) == 1


def test_an_outcome_that_is_a_stream_arrives_whole_and_the_method_goes_by_the_loop_from_then_on(ends: Ends) -> None:
    assert list(alone(ends, "S.count", 10_000)) == list(range(10_000))
    assert not goes_alone(ends, "S.count", 0)
    until(lambda: not any(channel.parked for channel in ends.server.channels))


def test_a_stream_that_comes_when_nobody_wants_it_any_more_is_let_go(ends: Ends, service: Service) -> None:
    call = under_way(ends, service, "S.count_when_told", 5)
    call.cancel()
    service.go.set()
    until(lambda: solo_of(ends)._under_way is None)
    until(lambda: not any(channel.parked or channel.outgoing for channel in ends.server.channels))
    assert alone(ends, "S.echo", 1) == 1


def test_while_it_is_taken_other_calls_do_not_wait(ends: Ends, service: Service) -> None:
    call = under_way(ends, service, "S.hold")
    assert not goes_alone(ends, "S.echo", 1)
    call.cancel()
    assert service.told.wait(PATIENCE)
    assert not goes_alone(ends, "S.echo", 2)  # its thread still has the first
    service.go.set()
    until(lambda: solo_of(ends)._under_way is None)
    assert goes_alone(ends, "S.echo", 3)


def test_a_call_that_may_be_sent_again_goes_by_the_main_connection(ends: Ends) -> None:
    connection = solo_of(ends)._connection
    assert connection is not None
    before = connection.bytes_out
    assert ends.link.submit("S.echo", (1,), {}, key=b"k" * 16).result(PATIENCE) == 1
    assert connection.bytes_out == before


def test_calls_that_come_together_go_by_the_main_connection(ends: Ends) -> None:
    def submit() -> list[Call[Any]]:
        return [ends.submit("S.echo", n) for n in range(10)]

    calls = ends.on_link(submit)
    assert [call.result(PATIENCE) for call in calls] == list(range(10))
    assert goes_alone(ends, "S.echo", 1)


@pytest.mark.parametrize("method", ["S.hold", "S.hold_async"])
def test_a_call_that_is_given_up_reaches_the_method_and_the_connection_stays(
    ends: Ends, service: Service, method: str
) -> None:
    connection = solo_of(ends)._connection
    call = under_way(ends, service, method)
    call.cancel()
    with pytest.raises(CancelledError):
        call.result(PATIENCE)
    assert service.told.wait(PATIENCE)
    service.go.set()
    until(lambda: solo_of(ends)._under_way is None)
    assert alone(ends, "S.echo", 1) == 1
    assert solo_of(ends)._connection is connection


@pytest.mark.parametrize("method", ["S.hold", "S.hold_async"])
def test_a_call_is_told_also_if_the_word_of_it_overtakes_the_call(ends: Ends, service: Service, method: str) -> None:
    ends.call("S.echo", 1)
    (channel,) = [c for c in ends.server.channels if c.directs]
    solo = solo_of(ends)
    connection = solo._connection
    assert connection is not None

    def submit() -> Call[Any]:
        call = ends.submit(method)
        assert solo._under_way is call
        return call

    ident = next(ends.link._idents) + 1
    ends.on_server(lambda: channel._cancel(ident))
    call = ends.on_link(submit)
    assert call.ident == ident
    with pytest.raises(DeadlineExceeded, match="was not begun"):
        call.result(PATIENCE)
    assert not service.told.is_set()
    assert alone(ends, "S.echo", 1) == 1
    assert solo._connection is connection


def test_a_deadline_holds_and_the_connection_stays(ends: Ends, service: Service) -> None:
    call = under_way(ends, service, "S.hold", timeout=0.3)
    with pytest.raises(DeadlineExceeded):
        call.result(PATIENCE)
    assert service.told.wait(PATIENCE)
    service.go.set()
    until(lambda: solo_of(ends)._under_way is None)
    assert alone(ends, "S.echo", 1) == 1


@pytest.mark.parametrize("which", ["main", "solo"])
def test_a_connection_that_is_lost_is_judged_once_and_the_next_call_is_answered(
    ends: Ends, service: Service, which: str
) -> None:
    judged: list[BigmachineError] = []

    async def verdict(cause: BigmachineError) -> BaseException:
        judged.append(cause)
        return NetworkError("judged")

    ends.link.judge_with(verdict)
    service.go.set()
    call = under_way(ends, service, "S.hold")

    def cut() -> None:
        connection = solo_of(ends)._connection if which == "solo" else ends.link.main
        assert connection is not None
        connection.abort()

    ends.on_link(cut)
    with pytest.raises(NetworkError, match="judged"):
        call.result(PATIENCE)
    assert len(judged) == 1
    assert service.told.wait(PATIENCE)
    until(lambda: solo_of(ends)._connection is None)
    assert ends.call("S.echo", 2) == 2
    connect(ends)
    assert alone(ends, "S.echo", 3) == 3


def test_a_link_that_is_closed_ends_the_call_with_its_error(ends: Ends, service: Service) -> None:
    service.go.set()
    call = under_way(ends, service, "S.hold")
    ends.link.close(NetworkError("it is over"))
    with pytest.raises(NetworkError, match="it is over"):
        call.result(PATIENCE)
    assert service.told.wait(PATIENCE)


def test_what_was_idle_for_long_is_not_trusted(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE", 0.01)
    time.sleep(0.05)
    assert not goes_alone(ends, "S.echo", 1)
    assert solo_of(ends)._connection is None
    connect(ends)


def test_calls_are_counted_once_on_both_sides(ends: Ends) -> None:
    before = ends.link.statistics.snapshot()["S.echo"].calls
    for _ in range(5):
        alone(ends, "S.echo", 1)
    here, there = ends.link.statistics.snapshot(), ends.server.statistics.snapshot()
    assert here["S.echo"].calls == before + 5 == there["S.echo"].calls


def test_a_connection_for_a_link_that_is_not_there_is_not_used(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls({"S": service}) as ends:
        ends.call("S.echo", 1)
        right = ends.link.greeting
        monkeypatch.setattr(ends.link, "greeting", lambda lane: right(lane)[:-4] + b"oops")
        solo = solo_of(ends)
        ends.on_link(lambda: setattr(solo, "_missed", module._WORTH_IT))
        ends.call("S.echo", 1)
        until(lambda: solo._not_before > 0)
        until(lambda: solo._connecting is None)
        assert solo._connection is None
        assert ends.call("S.echo", 2) == 2


@pytest.mark.parametrize(
    "frame",
    [
        small_frame(RESULT, 0, 2**40, b"N."),
        small_frame(ERROR, BY_LOOP, 2**40, b""),
        small_frame(PING, 0, 1),
        small_frame(PONG, 0, 1),
        small_frame(ITEM, 0, 1, b"N."),
    ],
)
def test_what_has_no_business_there_ends_the_connection_and_nothing_else(service: Service, frame: bytes) -> None:
    with tls({"S": service}, threads=3) as ends:  # then the machine's end is one that can be made to say it
        connect(ends)

        def send() -> None:
            (channel,) = [c for c in ends.server.channels if c.directs]
            (direct,) = channel.directs
            direct.send(frame)

        ends.on_server(send)
        until(lambda: solo_of(ends)._connection is None)
        assert ends.call("S.echo", 1) == 1
        connect(ends)
        assert alone(ends, "S.echo", 2) == 2


def test_what_comes_by_it_says_nothing_of_the_main_connection(served: Ends) -> None:
    served.on_link(served.link.doubt)
    solo = solo_of(served)
    connection = solo._connection
    assert connection is not None
    served.on_link(lambda: served.link.frames(connection, []))
    assert served.link._is_doubted
    served.on_link(served.link.believe)
