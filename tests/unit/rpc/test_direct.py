"""Calls that the waiting thread reads by itself: what goes that way, and that nothing is lost by it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextvars import copy_context
from functools import partial
from typing import Any, cast

import pytest

from bigmachine.errors import BigmachineError, DeadlineExceeded, InvalidCall, NetworkError
from bigmachine.rpc import Codec, current_call, deadline
from bigmachine.rpc.context import CallInfo, Waited, remaining, set_current
from bigmachine.rpc.waiting import direct as module
from bigmachine.rpc.waiting.direct import ELSEWHERE, Direct
from bigmachine.rpc.wire import Decoder, Frame
from tests.unit.rpc.ends import PATIENCE, Ends, memory, tls, until


class Service:
    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.told = threading.Event()
        self.go = threading.Event()

    def echo(self, value: object = None) -> object:
        return value

    async def echo_async(self, value: object = None) -> object:
        return value

    def fail(self) -> None:
        raise KeyError("as asked")

    def remaining(self) -> float | None:
        return remaining()

    def unbuildable(self) -> object:
        return Unbuildable()

    def size(self, n: int) -> bytes:
        return bytes(n)

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    def perhaps(self, n: int) -> object:
        return iter(range(n)) if n else n

    def wait(self) -> str:
        self.begun.release()
        assert self.go.wait(PATIENCE)
        return "went"

    def hold(self) -> None:
        self.begun.release()
        while not current_call().cancelled():
            time.sleep(0.001)
        self.told.set()


class Unbuildable:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return int, ("no number",)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=["thread", "loop"])
def ends(service: Service, request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Both ends, the machine's with a thread for the connection or with too few threads for that."""
    with tls({"S": service}, threads=256 if request.param == "thread" else 3) as ends:
        connect(ends)
        yield ends


def connect(ends: Ends) -> Direct:
    """Have the link make its connections for threads that wait; return the one for plain methods."""
    ends.call("S.echo", 1)
    until(lambda: ends.link.is_ready)
    plain, other = ends.link._direct, ends.link._direct_to_loop
    assert plain is not None
    assert other is not None
    for direct in (other, plain):
        direct.drop()
        direct._calls = module._WORTH_IT
        direct._not_before = 0.0
        assert direct.call("S.echo", (1,), {}) is ELSEWHERE
        until(partial(_is_connected, direct))
    return plain


def _is_connected(direct: Direct) -> bool:
    return direct._socket is not None


def call(ends: Ends, method: str, *args: Any) -> Any:
    """Call by that connection, and by no other."""
    outcome = ends.link.call_directly(method, args, {})
    assert outcome is not ELSEWHERE
    return outcome


def abort_directs(ends: Ends) -> None:
    for channel in list(ends.server.channels):
        for connection in list(channel.directs):
            connection.abort()


def in_thread(function: Callable[[], object]) -> Callable[[], object]:
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(function())
        except BaseException as exc:  # noqa: BLE001 (it is looked at)
            outcomes.append(exc)

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> object:
        thread.join(PATIENCE)
        assert not thread.is_alive()
        return outcomes[0]

    return join


def test_many_calls_of_a_waiting_thread_make_it_worth_a_connection(service: Service) -> None:
    with tls({"S": service}) as ends:
        ends.call("S.echo", 1)
        for _ in range(module._WORTH_IT - 1):
            assert ends.link.call_directly("S.echo", (1,), {}) is ELSEWHERE
        assert ends.link._direct is not None
        assert not ends.link._direct._is_dialling
        ends.link.call_directly("S.echo", (1,), {})
        until(lambda: ends.link._direct is not None and ends.link._direct._socket is not None)
        assert ends.link.call_directly("S.echo", (1,), {}) == 1


def test_where_there_is_no_socket_to_wait_on_calls_go_by_the_loop(service: Service) -> None:
    with memory({"S": service}) as ends:
        ends.call("S.echo", 1)
        for _ in range(2 * module._WORTH_IT):
            assert ends.link.call_directly("S.echo", (1,), {}) is ELSEWHERE


@pytest.mark.parametrize("kind", ["", "_async"])
@pytest.mark.parametrize("value", [7, "text", None, [1, {"a": 2.5}], b"x" * 1000])
def test_values_come_back(ends: Ends, kind: str, value: object) -> None:
    for _ in range(3):
        assert call(ends, f"S.echo{kind}", value) == value


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 64 * 1024, 5_000_000])
def test_results_of_any_size_come_back(ends: Ends, size: int) -> None:
    assert call(ends, "S.size", size) == bytes(size)
    assert call(ends, "S.echo", 1) == 1


def test_what_a_method_raises_arrives_and_the_next_call_is_answered(ends: Ends) -> None:
    with pytest.raises(KeyError, match="as asked"):
        call(ends, "S.fail")
    with pytest.raises(InvalidCall, match="no public method"):
        call(ends, "S.missing")
    with pytest.raises(InvalidCall, match="could not be rebuilt"):
        call(ends, "S.unbuildable")
    assert call(ends, "S.echo", 1) == 1


def test_a_result_above_the_limit_is_an_invalid_call_with_both_sizes(service: Service) -> None:
    with tls({"S": service}, codec=Codec(machine="m1", limit=100_000)) as ends:
        connect(ends)
        with pytest.raises(InvalidCall, match=r"200,?\d+ bytes.*100,000"):
            call(ends, "S.size", 200_000)
        assert call(ends, "S.echo", 1) == 1


def test_an_outcome_that_is_a_stream_arrives_whole_and_the_method_goes_by_the_loop_from_then_on(ends: Ends) -> None:
    assert call(ends, "S.perhaps", 0) == 0
    assert list(call(ends, "S.perhaps", 1000)) == list(range(1000))
    assert ends.link.call_directly("S.perhaps", (3,), {}) is ELSEWHERE
    assert list(call(ends, "S.count", 0)) == []
    until(lambda: not any(channel.parked for channel in ends.server.channels))


@pytest.mark.parametrize("argument", ["iterator", "large"])
def test_streams_and_large_arguments_go_by_the_loop(ends: Ends, argument: str) -> None:
    value: object = iter(range(3)) if argument == "iterator" else bytes(2**20)
    assert ends.link.call_directly("S.echo", (value,), {}) is ELSEWHERE


def test_calls_whose_deadline_is_near_go_by_the_loop(ends: Ends) -> None:
    with deadline(module._NEAR / 2):
        assert ends.link.call_directly("S.echo", (1,), {}) is ELSEWHERE
    with deadline(-1.0), pytest.raises(DeadlineExceeded):
        ends.call("S.echo", 1)


def test_a_deadline_travels_and_the_next_call_has_none(ends: Ends) -> None:
    with deadline(PATIENCE):
        left = call(ends, "S.remaining")
        assert PATIENCE - 1 < left <= PATIENCE
        assert 0 < call(ends, "S.remaining") <= left
    assert call(ends, "S.remaining") is None


def test_at_its_deadline_the_caller_is_released_and_the_method_is_told(
    ends: Ends, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_NEAR", 0.0)
    begin = time.monotonic()
    with deadline(0.3), pytest.raises(DeadlineExceeded, match=r"S.hold on .* had no outcome within 0.3 s"):
        call(ends, "S.hold")
    assert 0.3 <= time.monotonic() - begin < 2
    assert service.told.wait(PATIENCE)
    assert ends.link.statistics.snapshot()["S.hold"].errors == 1
    assert ends.call("S.echo", 1) == 1
    ends.link.call_directly("S.echo", (1,), {})  # a connection is made again at once
    until(lambda: ends.link._direct is not None and _is_connected(ends.link._direct))
    assert call(ends, "S.echo", 2) == 2


class Slow:
    """A decoder to which an outcome comes piece by piece."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def buffer(self) -> memoryview:
        return self._decoder.buffer()[:4096]

    def received(self, count: int) -> list[Frame]:
        time.sleep(0.01)
        return self._decoder.received(count)


def test_a_deadline_holds_while_an_outcome_trickles_in(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEAR", 0.0)
    assert ends.link._direct is not None
    ends.link._direct._decoder = cast(Decoder, Slow(ends.link._direct._decoder))
    begin = time.monotonic()
    with deadline(0.3), pytest.raises(DeadlineExceeded):
        call(ends, "S.size", 2**20 - 1000)  # in 250 pieces
    assert time.monotonic() - begin < 2


def as_a_method(function: Callable[[], object]) -> tuple[CallInfo, Callable[[], object]]:
    """Run it in a thread as a method would be run; returns the method's call, and how to have the outcome."""
    info = CallInfo("somebody", None, None)
    context = copy_context()
    context.run(set_current, info)
    return info, in_thread(lambda: context.run(function))


def test_a_method_that_was_given_up_stops_waiting_and_what_it_waits_for_is_told(ends: Ends, service: Service) -> None:
    info, outcome = as_a_method(lambda: call(ends, "S.hold"))
    assert service.begun.acquire(timeout=PATIENCE)
    info.cancel()
    assert isinstance(outcome(), CancelledError)
    assert service.told.wait(PATIENCE)
    assert not info._waited
    # It may call again, to clean up.
    connect(ends)
    context = copy_context()
    context.run(set_current, info)
    assert context.run(call, ends, "S.echo", 3) == 3


def test_one_that_was_given_up_before_it_calls_does_not_call(ends: Ends, service: Service) -> None:
    info = CallInfo("somebody", None, None)
    info.cancel()
    context = copy_context()
    context.run(set_current, info)
    with pytest.raises(CancelledError):
        context.run(call, ends, "S.echo", 1)
    assert ends.call("S.echo", 2) == 2


def test_who_is_given_up_when_the_outcome_is_there_has_it_and_disturbs_nobody(ends: Ends) -> None:
    leashes: list[module._Leash] = []

    class Kept(CallInfo):
        __slots__ = ()

        def leave_off(self, call: Waited) -> None:
            super().leave_off(call)
            leashes.append(cast(module._Leash, call))
            if len(leashes) == 1:
                call.cancel()  # between the outcome and the end of the wait

    context = copy_context()
    context.run(set_current, Kept("somebody", None, None))
    assert context.run(call, ends, "S.echo", 1) == 1
    connect(ends)
    assert context.run(call, ends, "S.echo", 2) == 2
    assert not leashes[1].cancel()  # too late
    assert call(ends, "S.echo", 3) == 3


def test_who_finds_it_taken_goes_by_the_loop(ends: Ends, service: Service) -> None:
    first = in_thread(lambda: call(ends, "S.wait"))
    assert service.begun.acquire(timeout=PATIENCE)
    assert ends.link.call_directly("S.echo", (1,), {}) is ELSEWHERE
    assert ends.call("S.echo", 2) == 2
    service.go.set()
    assert first() == "went"


def test_calls_are_counted_on_both_sides(ends: Ends) -> None:
    before = ends.link.statistics.snapshot()["S.echo"].calls
    for _ in range(5):
        call(ends, "S.echo", 1)
    with pytest.raises(KeyError):
        call(ends, "S.fail")
    here, there = ends.link.statistics.snapshot(), ends.server.statistics.snapshot()
    assert here["S.echo"].calls == before + 5 == there["S.echo"].calls
    assert here["S.fail"].errors == 1 == there["S.fail"].errors


def test_what_comes_out_of_band_is_counted_too(ends: Ends) -> None:
    call(ends, "S.size", 200_000)
    assert 200_000 < ends.link.statistics.snapshot()["S.size"].bytes_in < 201_000


def test_a_link_that_is_closed_releases_who_waits_with_its_error(ends: Ends, service: Service) -> None:
    waiting = in_thread(lambda: call(ends, "S.hold"))
    assert service.begun.acquire(timeout=PATIENCE)
    ends.link.close(NetworkError("it is over"))
    error = waiting()
    assert isinstance(error, NetworkError)
    assert "it is over" in str(error)
    assert service.told.wait(PATIENCE)


@pytest.mark.parametrize("which", ["main", "direct"])
def test_a_connection_that_is_lost_is_judged_and_the_next_call_is_answered(
    ends: Ends, service: Service, which: str
) -> None:
    judged: list[BigmachineError] = []

    async def verdict(cause: BigmachineError) -> BaseException:
        judged.append(cause)
        return NetworkError("judged")

    ends.link.judge_with(verdict)
    waiting = in_thread(lambda: call(ends, "S.hold"))
    assert service.begun.acquire(timeout=PATIENCE)
    if which == "main":
        ends.cut()
    else:
        ends.on_server(lambda: abort_directs(ends))
    error = waiting()
    assert isinstance(error, NetworkError)
    assert str(error) == "judged"
    assert len(judged) == 1
    assert service.told.wait(PATIENCE)
    assert ends.call("S.echo", 2) == 2
    connect(ends)
    assert call(ends, "S.echo", 3) == 3


def test_while_it_is_waited_for_the_heartbeat_watches(ends: Ends, service: Service) -> None:
    waiting = in_thread(lambda: call(ends, "S.wait"))
    assert service.begun.acquire(timeout=PATIENCE)
    assert ends.link.is_waiting()
    until(lambda: ends.link._heartbeat.is_on)
    service.go.set()
    assert waiting() == "went"
    assert not ends.link.is_waiting()


def test_an_interrupt_gives_the_call_up(
    ends: Ends, service: Service, interrupts: Callable[[threading.Event], None]
) -> None:
    has_begun = threading.Event()

    def wait() -> None:
        assert service.begun.acquire(timeout=PATIENCE)
        has_begun.set()

    interrupts(has_begun)
    threading.Thread(target=wait).start()
    with pytest.raises(KeyboardInterrupt):
        call(ends, "S.hold")
    assert service.told.wait(PATIENCE)
    assert ends.call("S.echo", 2) == 2


def test_what_was_idle_for_long_is_not_trusted(ends: Ends) -> None:
    direct = ends.link._direct
    assert direct is not None
    direct._used -= module._IDLE + 1
    assert ends.link.call_directly("S.echo", (1,), {}) is ELSEWHERE
    assert direct._socket is None
    connect(ends)
    assert call(ends, "S.echo", 1) == 1


def test_a_forked_child_leaves_the_connection_alone(ends: Ends) -> None:
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if ends.link.call_directly("S.echo", (1,), {}) is ELSEWHERE else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert call(ends, "S.echo", 5) == 5


def test_a_connection_that_cannot_be_made_is_not_tried_again_at_once(service: Service) -> None:
    with tls({"S": service}) as ends:
        ends.call("S.echo", 1)
        direct = ends.link._direct
        assert direct is not None

        def refuse() -> Any:
            raise NetworkError("no way there")

        direct._dial = refuse
        direct._calls = module._WORTH_IT
        assert ends.link.call_directly("S.echo", (1,), {}) is ELSEWHERE
        until(lambda: not direct._is_dialling)
        direct._calls = module._WORTH_IT
        assert ends.link.call_directly("S.echo", (1,), {}) is ELSEWHERE
        assert not direct._is_dialling
        assert ends.call("S.echo", 2) == 2


def test_a_connection_for_a_link_that_is_not_there_is_refused(ends: Ends) -> None:
    direct = ends.link._direct
    assert direct is not None
    direct.drop()
    ends.link._token = b"another"
    direct._calls = module._WORTH_IT
    assert ends.link.call_directly("S.echo", (1,), {}) is ELSEWHERE
    until(lambda: direct._not_before > 0 and not direct._is_dialling)
    assert direct._socket is None
    assert ends.call("S.echo", 2) == 2
