"""The called side: how methods run, what becomes of their outcomes, and that nothing they do harms another call."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from bigmachine.errors import (
    AuthenticationError,
    DeadlineExceeded,
    InvalidCall,
    NetworkError,
    RemoteError,
    is_remote,
)
from bigmachine.rpc import Call, Codec, current_call, deadline
from bigmachine.rpc.connection import Connection
from bigmachine.rpc.context import get_deadline
from bigmachine.rpc.losses import OutcomeGone
from bigmachine.rpc.memory import MemoryDialer
from bigmachine.rpc.runs import FramedRun
from bigmachine.rpc.wire import (
    CALL,
    CANCEL,
    CREDIT,
    ERROR,
    HELLO,
    PING,
    PONG,
    RESULT,
    VERSION,
    Frame,
    head,
    small_frame,
)
from bigmachine.trust import Peer, Role
from tests.unit.rpc.ends import DRIVER, PATIENCE, SESSION, Ends, memory, once_begun, until


class Unbuildable:
    def __init__(self, builder: Callable[..., object], *args: object) -> None:
        self._how = builder, args

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._how


def _raise(kind: type[BaseException], text: str) -> object:
    raise kind(text)


class Quits:
    """Its pickling ends the program, or would."""

    def __reduce__(self) -> str:
        raise SystemExit(3)


class Touchy:
    """Looking for attributes that it does not have makes it angry."""

    def __getattr__(self, name: str) -> object:
        raise ValueError(f"do not ask for {name}")


class Service:
    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.ended: list[str] = []
        self.told = threading.Event()
        self.go = threading.Event()
        self.running = 0
        self.most = 0
        self.order: list[int] = []

    def echo(self, value: object = None) -> object:
        return value

    async def echo_async(self, value: object = None) -> object:
        await asyncio.sleep(0)
        return value

    def add(self, a: int, b: int = 1, *, c: int = 0) -> int:
        return a + b + c

    async def add_async(self, a: int, b: int = 1, *, c: int = 0) -> int:
        return a + b + c

    def where(self) -> str:
        return threading.current_thread().name

    async def where_async(self) -> str:
        return threading.current_thread().name

    def returns_coroutine(self, value: object) -> Awaitable[object]:
        return self.echo_async(value)

    def returns_coroutine_late(self) -> Awaitable[object]:
        self.hold()
        return self.echo_async()

    def fail(self, exc: BaseException) -> None:
        raise exc

    async def fail_async(self, exc: BaseException) -> None:
        await asyncio.sleep(0)
        raise exc

    def quit(self, kind: str) -> None:
        raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "generator": GeneratorExit()}[kind]

    async def quit_async(self, kind: str) -> None:
        raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "generator": GeneratorExit()}[kind]

    async def cancels_itself(self) -> None:
        raise asyncio.CancelledError("by itself")

    def type_error_inside(self) -> None:
        self.add("x", 1)  # type: ignore[arg-type]  # that is the point

    def unpicklable(self) -> object:
        return threading.Lock()

    async def unpicklable_async(self) -> object:
        return threading.Lock()

    def quits_when_pickled(self) -> object:
        return Quits()

    async def quits_when_pickled_async(self) -> object:
        return Quits()

    def touchy(self) -> object:
        return Touchy()

    def hold(self) -> str:
        """Last until it is told that nobody waits any more."""
        self.begun.release()
        call = current_call()
        end = time.monotonic() + PATIENCE
        while not call.cancelled():
            assert time.monotonic() < end
            time.sleep(0.0005)
        self.ended.append("told")
        self.told.set()
        return "too late"

    async def hold_async(self) -> str:
        self.begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append("cancelled" if current_call().cancelled() else "ended")
            self.told.set()
        return "never"

    def fail_late(self) -> None:
        self.hold()
        raise OSError("given up")

    async def fail_late_async(self) -> None:
        await self.hold_async()

    async def shrugs(self) -> str:
        """Do not let itself be cancelled."""
        self.begun.release()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        self.told.set()
        return "still here"

    def wait_for_go(self, n: int = 0) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        self.order.append(n)
        self.begun.release()
        assert self.go.wait(PATIENCE)
        self.running -= 1
        return n

    async def wait_for_go_async(self, n: int = 0) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        self.order.append(n)
        self.begun.release()
        while not self.go.is_set():  # noqa: ASYNC110 (a thread's event)
            await asyncio.sleep(0.001)
        self.running -= 1
        return n

    def info(self) -> tuple[str, float | None, bool]:
        call = current_call()
        return call.caller, call.remaining(), get_deadline() is not None

    async def info_async(self) -> tuple[str, float | None, bool]:
        return self.info()

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def count_async(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    @property
    def broken(self) -> object:
        raise OSError("no such part")


class Bounded(Service):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.max_concurrency = limit


BOTH = pytest.mark.parametrize("kind", ["", "_async"])


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def ends(service: Service) -> Iterator[Ends]:
    with memory({"S": service}) as it:
        yield it
        service.go.set()


def begun(service: Service, n: int = 1) -> None:
    for _ in range(n):
        assert service.begun.acquire(timeout=PATIENCE), "it does not begin"


# --- how methods run


@BOTH
def test_arguments_arrive_by_place_and_by_name(ends: Ends, kind: str) -> None:
    assert ends.call(f"S.add{kind}", 1) == 2
    assert ends.call(f"S.add{kind}", 1, 5) == 6
    assert ends.call(f"S.add{kind}", a=1, b=2, c=3) == 6


def test_plain_methods_run_in_threads_and_async_ones_on_the_loop(ends: Ends) -> None:
    assert ends.call("S.where").startswith("bigmachine-call-")
    assert ends.call("S.where_async") == "test-io"


def test_what_a_plain_method_returns_to_be_awaited_is_awaited(ends: Ends) -> None:
    assert ends.call("S.returns_coroutine", 5) == 5


def test_plain_methods_run_several_at_once(ends: Ends, service: Service) -> None:
    calls = [ends.submit("S.wait_for_go", n) for n in range(10)]
    begun(service, 10)
    service.go.set()
    assert [call.result(PATIENCE) for call in calls] == list(range(10))
    assert service.most == 10


def test_async_methods_run_several_at_once(ends: Ends, service: Service) -> None:
    calls = [ends.submit("S.wait_for_go_async", n) for n in range(100)]
    begun(service, 100)
    service.go.set()
    assert [call.result(PATIENCE) for call in calls] == list(range(100))
    assert service.most == 100


def runs_of(ends: Ends) -> list[FramedRun]:
    """Give the runs that there still are of this server: other tests' are other tests' matter."""
    return [o for o in gc.get_objects() if type(o) is FramedRun and o.channel.server is ends.server]


@BOTH
def test_a_call_that_is_over_leaves_nothing_to_the_garbage_collector(ends: Ends, kind: str) -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            ends.call(f"S.echo{kind}", 1)
        until(ends.is_idle)
        until(lambda: not runs_of(ends))
    finally:
        gc.enable()


@BOTH
def test_a_method_knows_its_caller_and_has_no_deadline_unless_its_caller_has(ends: Ends, kind: str) -> None:
    assert ends.call(f"S.info{kind}") == ("driver", None, False)
    caller, left, has_deadline = ends.call(f"S.info{kind}", timeout=50)
    assert (caller, has_deadline) == ("driver", True)
    assert 40 < left <= 50
    assert ends.call(f"S.info{kind}") == ("driver", None, False)


# --- errors of the method


@BOTH
def test_what_a_method_raises_arrives_as_itself_with_the_remote_traceback(ends: Ends, kind: str) -> None:
    with pytest.raises(LookupError, match="odd") as caught:
        ends.call(f"S.fail{kind}", LookupError("odd"))
    assert is_remote(caught.value)
    text = str(caught.value.__cause__)
    assert "on machine m1" in text
    assert "raise exc" in text
    assert "bigmachine/rpc" not in text


@BOTH
@pytest.mark.parametrize(("what", "name"), [("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt"),
                                            ("generator", "GeneratorExit")])  # fmt: skip
def test_what_would_end_the_machine_arrives_as_remote_error_and_the_machine_goes_on(
    ends: Ends, kind: str, what: str, name: str
) -> None:
    with pytest.raises(RemoteError) as caught:
        ends.call(f"S.quit{kind}", what)
    assert caught.value.type_name == name
    assert ends.call("S.echo", 1) == 1
    assert ends.call("S.echo_async", 1) == 1


def test_a_method_that_cancels_itself_is_a_remote_error_and_no_cancellation_of_the_caller(ends: Ends) -> None:
    with pytest.raises(RemoteError, match="CancelledError: by itself"):
        ends.call("S.cancels_itself")


@pytest.mark.parametrize("method", ["unpicklable", "unpicklable_async"])
def test_a_result_that_cannot_be_pickled_is_an_invalid_call_that_names_the_method(ends: Ends, method: str) -> None:
    with pytest.raises(InvalidCall, match=rf"the result of S\.{method} cannot be pickled: .*lock"):
        ends.call(f"S.{method}")


@pytest.mark.parametrize("method", ["quits_when_pickled", "quits_when_pickled_async"])
def test_a_result_whose_pickling_would_end_the_machine_is_an_error_of_that_call(ends: Ends, method: str) -> None:
    with pytest.raises(RemoteError, match="SystemExit"):
        ends.call(f"S.{method}")
    assert ends.call("S.echo", 1) == 1


def test_a_result_that_must_not_be_looked_at_closely_is_an_error_of_that_call(ends: Ends) -> None:
    with pytest.raises(ValueError, match="do not ask for read"):
        ends.call("S.touchy")


# --- calls that do not fit


@BOTH
@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing a required argument: 'a'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"d": 1}, "unexpected keyword argument 'd'"),
        ((1,), {"a": 1}, "multiple values for argument 'a'"),
    ],
)
def test_arguments_that_do_not_bind_are_an_invalid_call_that_says_why(
    ends: Ends, kind: str, args: Any, kwargs: Any, text: str
) -> None:
    with pytest.raises(InvalidCall, match=rf"the arguments do not fit S\.add{kind}: .*{text}") as caught:
        ends.call(f"S.add{kind}", *args, **kwargs)
    assert not is_remote(caught.value)


def test_a_type_error_inside_a_method_is_its_own(ends: Ends) -> None:
    with pytest.raises(TypeError, match=r"concatenate|unsupported") as caught:
        ends.call("S.type_error_inside")
    assert is_remote(caught.value)


@pytest.mark.parametrize("method", ["S.nix", "T.echo", "S._private", "S.begun", "S.broken", "nix", ""])
def test_a_method_that_is_not_there_is_an_invalid_call(ends: Ends, method: str) -> None:
    with pytest.raises(InvalidCall) as caught:
        ends.call(method)
    assert not is_remote(caught.value)
    assert ends.call("S.echo", 1) == 1


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (Unbuildable(_raise, LookupError, "lost"), "LookupError: lost; its traceback is the cause"),
        (Unbuildable(_raise, ImportError, "far"), r"ImportError: far; is the module on the machine, too\?"),
        (Unbuildable(_raise, AttributeError, "x"), "AttributeError: x; define classes and functions before"),
        (Unbuildable(_raise, SystemExit, "3"), "SystemExit: 3"),
    ],
    ids=["LookupError", "ImportError", "AttributeError", "SystemExit"],
)
def test_an_argument_that_cannot_be_rebuilt_is_an_invalid_call_with_a_hint(
    ends: Ends, argument: object, text: str
) -> None:
    with pytest.raises(InvalidCall, match=rf"an argument could not be rebuilt on the machine: {text}") as caught:
        ends.call("S.echo", argument)
    # Where it was raised is told, and it is not taken for an exception of the method.
    assert "in _raise" in str(caught.value.__cause__)
    assert not is_remote(caught.value)
    assert ends.call("S.echo", 1) == 1


def test_a_call_above_the_machines_limit_is_an_invalid_call_with_both_sizes(service: Service) -> None:
    with memory({"S": service}, codec=Codec(limit=1 << 30)) as ends:
        ends.server.codec.limit = 100_000
        assert ends.call("S.echo", 1) == 1
        ends.cut()
        with pytest.raises(
            InvalidCall, match=r"the call has 200,\d\d\d bytes, above the limit of 100,000 there"
        ) as caught:
            ends.call("S.echo", bytes(200_000))
        assert "BIGMACHINE_LIMIT" in str(caught.value)
        assert "in the call S.echo" in caught.value.__notes__[0]
        assert ends.call("S.echo", 1) == 1


# --- cancellation


def test_a_cancelled_call_cancels_its_async_method(ends: Ends, service: Service) -> None:
    call = ends.submit("S.hold_async")
    begun(service)
    assert call.cancel()
    assert service.told.wait(PATIENCE)
    assert service.ended == ["cancelled"]


def test_a_cancelled_call_is_told_to_its_plain_method(ends: Ends, service: Service) -> None:
    call = ends.submit("S.hold")
    begun(service)
    assert call.cancel()
    assert service.told.wait(PATIENCE)


class Elaborate(Exception):
    """Notes that it was written down."""

    written = 0

    def __str__(self) -> str:
        Elaborate.written += 1
        return "told"


class Elaborates:
    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)

    def hold(self) -> None:
        self.begun.release()
        while not current_call().cancelled():
            time.sleep(0.001)
        raise Elaborate

    async def hold_async(self) -> None:
        self.begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            raise Elaborate


@BOTH
def test_what_a_method_raises_that_was_given_up_is_not_written_down(kind: str) -> None:
    service = Elaborates()
    with memory({"S": service}) as ends:
        Elaborate.written = 0
        call = ends.submit(f"S.hold{kind}")
        assert service.begun.acquire(timeout=PATIENCE)
        assert call.cancel()
        until(lambda: (seen := ends.server.statistics.snapshot().get(f"S.hold{kind}")) and seen.errors == 1)
        assert Elaborate.written == 0


def test_a_task_that_is_cancelled_cancels_what_it_awaits_on_the_machine(ends: Ends, service: Service) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(_await(ends.submit("S.hold_async")))
        while not service.begun.acquire(blocking=False):  # noqa: ASYNC110 (a thread's semaphore)
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert service.told.wait(PATIENCE)


async def _await(call: Call[Any]) -> Any:
    return await call


def test_what_a_method_returns_to_be_awaited_is_closed_when_nobody_wants_it_any_more(
    ends: Ends, service: Service
) -> None:
    call = ends.submit("S.returns_coroutine_late")
    begun(service)
    call.cancel()
    assert service.told.wait(PATIENCE)
    assert ends.call("S.echo", 1) == 1
    until(lambda: ends.server.statistics.snapshot()["S.returns_coroutine_late"].errors == 1)


def test_a_method_that_refuses_to_be_cancelled_answers_nobody(ends: Ends, service: Service) -> None:
    call = ends.submit("S.shrugs")
    begun(service)
    call.cancel()
    assert service.told.wait(PATIENCE)
    assert call.cancelled()
    assert ends.call("S.echo", 1) == 1


def test_a_call_that_is_cancelled_before_it_begins_never_does(service: Service) -> None:
    with memory({"S": service}, threads=1) as ends:
        first = ends.submit("S.wait_for_go", 1)
        begun(service)
        second = ends.submit("S.wait_for_go", 2)
        second.cancel()
        third = ends.submit("S.wait_for_go", 3)
        service.go.set()
        assert [first.result(PATIENCE), third.result(PATIENCE)] == [1, 3]
        assert service.order == [1, 3]


@BOTH
def test_a_call_that_is_cancelled_as_it_arrives_leaves_its_bounded_service_free(kind: str) -> None:
    service = Bounded(1)
    with memory({"S": service}) as ends:
        raw = Raw(ends)
        call = ends.link.codec.call(CALL, 0, 1, f"S.echo{kind}", (1,), {}, None)
        assert isinstance(call, bytes)
        for _ in range(3):
            raw.send(call + small_frame(CANCEL, 0, 1))
        assert ends.call(f"S.echo{kind}", 2) == 2


# --- deadlines


@BOTH
def test_a_deadline_releases_the_caller_and_reaches_the_method(ends: Ends, service: Service, kind: str) -> None:
    def attempt(seconds: float) -> None:
        text = rf"S\.hold{kind} on m1 had no outcome within {seconds:.3g} s"
        with pytest.raises(DeadlineExceeded, match=text) as caught:
            ends.call(f"S.hold{kind}", timeout=seconds)
        assert isinstance(caught.value, TimeoutError)

    once_begun(service.begun, attempt)
    assert service.told.wait(PATIENCE)


@pytest.mark.parametrize("kind", ["hold", "hold_async"])
def test_the_machine_enforces_a_deadline_also_when_its_caller_says_nothing_any_more(
    ends: Ends, service: Service, kind: str
) -> None:
    raw = Raw(ends)
    answers: list[object] = []

    def attempt(seconds: float) -> None:
        raw.send(ends.link.codec.call(CALL, 0, len(answers), f"S.{kind}", (), {}, seconds))
        answers.append(raw.answer(len(answers)))

    once_begun(service.begun, attempt)
    assert service.told.wait(PATIENCE)
    # Also of a plain method, whatever it returns once it has seen that nobody waits.
    assert type(answers[-1]) is DeadlineExceeded
    assert f"S.{kind} was not done by its deadline" in str(answers[-1])


def test_a_deadline_holds_also_while_a_call_waits_for_a_thread(service: Service) -> None:
    with memory({"S": service}, threads=1) as ends:
        first = ends.submit("S.wait_for_go", 1)
        begun(service)
        with pytest.raises(DeadlineExceeded):
            ends.call("S.wait_for_go", 2, timeout=0.02)
        service.go.set()
        assert first.result(PATIENCE) == 1
        assert ends.call("S.echo", 1) == 1
        assert service.order == [1]


# --- bounded services


@BOTH
def test_a_bounded_service_runs_so_many_at_once_and_the_others_in_order(kind: str) -> None:
    service = Bounded(2)
    with memory({"S": service}) as ends:
        calls = [ends.submit(f"S.wait_for_go{kind}", n) for n in range(8)]
        begun(service, 2)
        assert ends.on_server(lambda: service.running) == 2
        service.go.set()
        assert [call.result(PATIENCE) for call in calls] == list(range(8))
        assert service.most == 2
        assert sorted(service.order[:2]) == [0, 1]
        assert all(n <= m + 1 for n, m in zip(service.order, range(8), strict=True))


@BOTH
def test_a_call_that_waits_for_a_bounded_service_keeps_its_deadline_and_can_be_cancelled(kind: str) -> None:
    service = Bounded(1)
    with memory({"S": service}) as ends:
        first = ends.submit(f"S.wait_for_go{kind}", 1)
        begun(service)
        cancelled = ends.submit(f"S.wait_for_go{kind}", 2)
        with pytest.raises(DeadlineExceeded):
            ends.call(f"S.wait_for_go{kind}", 3, timeout=0.02)
        cancelled.cancel()
        last = ends.submit(f"S.wait_for_go{kind}", 4)
        gate = ends.server.table.find("S.echo").gate
        assert gate is not None
        until(lambda: [run.cancelled() for run in list(gate._waiting)] == [True, True, False])
        service.go.set()
        assert [first.result(PATIENCE), last.result(PATIENCE)] == [1, 4]
        assert service.order == [1, 4]


@BOTH
def test_the_bound_holds_for_callers_that_speak_no_frames_too(kind: str) -> None:
    service = Bounded(1)
    with memory({"S": service}) as ends:
        first = ends.submit(f"S.wait_for_go{kind}", 1)
        begun(service)

        async def scenario() -> list[Any]:
            others = [asyncio.create_task(ends.server.invoke(DRIVER, f"S.wait_for_go{kind}", (n,), {})) for n in (2, 3)]
            with pytest.raises(DeadlineExceeded):
                await ends.server.invoke(DRIVER, f"S.wait_for_go{kind}", (4,), {}, 0.02)
            assert service.running == 1
            service.go.set()
            return await asyncio.gather(*others)

        assert ends.reactor.run(scenario(), PATIENCE) == [2, 3]
        assert first.result(PATIENCE) == 1
        assert ends.call(f"S.wait_for_go{kind}", 5) == 5
        assert service.order == [1, 2, 3, 5]
        assert service.most == 1


# --- the connection


@BOTH
def test_when_the_connection_is_lost_the_methods_under_way_are_told(ends: Ends, service: Service, kind: str) -> None:
    call = ends.submit(f"S.hold{kind}")
    begun(service)
    ends.cut()
    with pytest.raises(NetworkError):
        call.result(PATIENCE)
    assert service.told.wait(PATIENCE)


class Raw:
    """A peer that writes frames by hand."""

    codec = Codec()

    def __init__(self, ends: Ends, peer: Peer = DRIVER, hello: bytes | None = None) -> None:
        self.frames_in: list[tuple[int, int, int, bytes]] = []
        self.is_lost = threading.Event()
        self.error: Exception | None = None
        self._ends = ends
        dialer = MemoryDialer(ends.server, peer, "raw")
        self.connection: Connection = ends.reactor.run(dialer.dial(ends.reactor, self), PATIENCE)
        self.send(hello if hello is not None else small_frame(HELLO, 0, 0, pickle.dumps((VERSION, b"raw", 0))))

    def send(self, data: Any) -> None:
        self._ends.on_link(lambda: self.connection.send(data))

    def frames(self, connection: Connection, frames: list[Frame]) -> None:
        self.frames_in += [(kind, flags, ident, bytes(payload)) for kind, flags, ident, payload, _ in frames]

    def lost(self, connection: Connection, error: Exception | None) -> None:
        self.error = error
        self.is_lost.set()

    def answer(self, ident: int) -> object:
        until(lambda: [frame for frame in self.frames_in if frame[2] == ident])
        kind, flags, _, payload = next(frame for frame in self.frames_in if frame[2] == ident)
        assert kind in (RESULT, ERROR)
        return self.codec.load_error(payload, flags) if kind == ERROR else pickle.loads(payload)


def test_a_ping_is_answered_with_its_id(ends: Ends) -> None:
    raw = Raw(ends)
    raw.send(small_frame(PING, 0, 77))
    until(lambda: raw.frames_in)
    assert raw.frames_in == [(PONG, 0, 77, b"")]


def test_a_call_that_is_no_pickle_is_refused_and_the_next_one_answered(ends: Ends) -> None:
    raw = Raw(ends)
    raw.send(small_frame(CALL, 0, 1, b"garbage"))
    assert isinstance(raw.answer(1), InvalidCall)
    raw.send(Codec().call(CALL, 0, 2, "S.echo", (5,), {}, None))
    assert raw.answer(2) == 5


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        small_frame(HELLO, 0, 0, b"no pickle"),
        small_frame(HELLO, 0, 0, pickle.dumps("no greeting")),
        small_frame(HELLO, 0, 0, pickle.dumps((VERSION + 1, b"t", 0))),
        small_frame(HELLO, 0, 0, pickle.dumps((VERSION, b"nobody's", 1))),
        small_frame(CALL, 0, 1, pickle.dumps("not a call")) + small_frame(99, 0, 0),
        small_frame(CALL, 128, 1, b"\xff no number"),
        head(PING, 0, 1, b"", [2**62]) + small_frame(0, 0, 0),
    ],
    ids=["http", "hello", "odd hello", "version", "bulk of nobody", "no kind", "oversized", "huge then no kind"],
)
def test_a_peer_that_breaks_the_rules_loses_its_connection_and_harms_nobody(ends: Ends, data: bytes) -> None:
    assert ends.call("S.echo", 1) == 1
    raw = Raw(ends)
    raw.send(data)
    if data.startswith(head(PING, 0, 1, b"", [2**62])):
        raw.connection.reactor.loop.call_soon_threadsafe(raw.connection.abort)
    assert raw.is_lost.wait(PATIENCE)
    assert ends.call("S.echo", 2) == 2
    until(lambda: len(ends.server.channels) == 1)
    ends.complaints.clear()


def test_credit_of_the_wrong_size_ends_the_connection_it_came_on_alone(ends: Ends, service: Service) -> None:
    raw = Raw(ends)
    raw.send(Codec().call(CALL, 0, 1, "S.count", (10_000,), {}, None))
    until(lambda: len(raw.frames_in) > 100)
    raw.send(small_frame(CREDIT, 0, 1, b"odd"))
    assert raw.is_lost.wait(PATIENCE)
    assert ends.call("S.echo", 2) == 2
    ends.complaints.clear()


def test_frames_behind_a_bulk_lanes_hello_are_for_its_link(ends: Ends, service: Service) -> None:
    main = Raw(ends, hello=small_frame(HELLO, 0, 0, pickle.dumps((VERSION, b"pair", 0))))
    call = Codec().call(CALL, 0, 1, "S.hold_async", (), {}, None)
    assert isinstance(call, bytes)
    bulk = Raw(ends, hello=small_frame(HELLO, 0, 0, pickle.dumps((VERSION, b"pair", 1))) + call)
    begun(service)
    until(lambda: len(ends.server.channels) == 1)
    main.send(small_frame(CANCEL, 0, 1))
    assert service.told.wait(PATIENCE)
    ends.on_link(bulk.connection.abort)
    assert main.is_lost.wait(PATIENCE)  # frames of its calls may be lost: whoever waits has to know


def test_a_bulk_lane_of_somebody_else_is_refused_even_with_the_right_token(ends: Ends) -> None:
    main = Raw(ends, hello=small_frame(HELLO, 0, 0, pickle.dumps((VERSION, b"pair", 0))))
    other = Peer(SESSION, Role.MACHINE, "h123456-m9")
    thief = Raw(ends, other, small_frame(HELLO, 0, 0, pickle.dumps((VERSION, b"pair", 1))))
    assert thief.is_lost.wait(PATIENCE)
    assert not main.is_lost.is_set()


def test_frames_that_only_a_server_sends_are_ignored(ends: Ends) -> None:
    raw = Raw(ends)
    raw.send(small_frame(RESULT, 0, 1) + small_frame(ERROR, 0, 1) + small_frame(PONG, 0, 1) + small_frame(CANCEL, 0, 1))
    raw.send(small_frame(PING, 0, 5))
    until(lambda: raw.frames_in)
    assert raw.frames_in == [(PONG, 0, 5, b"")]


def test_closing_the_server_closes_every_connection(service: Service) -> None:
    with memory({"S": service}) as ends:
        raw = Raw(ends)
        ends.call("S.echo")
        ends.reactor.run(ends.server.close(), PATIENCE)
        assert raw.is_lost.wait(PATIENCE)
        until(lambda: not ends.server.channels)


# --- who may call


def test_whoever_may_not_call_a_method_is_refused_and_may_call_others(service: Service) -> None:
    asked: list[tuple[str, str]] = []

    def authorize(peer: Peer, method: str) -> None:
        asked.append((peer.id, method))
        if method == "S.add":
            raise AuthenticationError(f"{peer} may not call {method}")

    with memory({"S": service}, authorize=authorize) as ends:
        with pytest.raises(AuthenticationError, match=r"may not call S\.add") as caught:
            ends.call("S.add", 1)
        assert not is_remote(caught.value)
        assert ends.call("S.echo", 1) == 1
        with pytest.raises(InvalidCall):
            ends.call("S.nix")
    assert asked == [("driver", "S.add"), ("driver", "S.echo")]


def test_the_server_is_told_who_connects(service: Service) -> None:
    peers: list[Peer] = []
    with memory({"S": service}) as ends:
        ends.server.on_peer = peers.append
        ends.call("S.echo")
    assert peers == [DRIVER]


# --- calls that are sent again


def keyed(ends: Ends, method: str, *args: object) -> Call[Any]:
    return ends.link.submit(method, args, {}, key=b"one")


@BOTH
def test_a_call_that_comes_again_gets_the_outcome_of_the_first(ends: Ends, service: Service, kind: str) -> None:
    service.go.set()
    assert keyed(ends, f"S.wait_for_go{kind}", 1).result(PATIENCE) == 1
    assert keyed(ends, f"S.wait_for_go{kind}", 2).result(PATIENCE) == 1
    assert service.order == [1]


@BOTH
def test_a_call_that_comes_again_waits_while_the_first_runs(ends: Ends, service: Service, kind: str) -> None:
    first = keyed(ends, f"S.wait_for_go{kind}", 1)
    begun(service)
    again = [keyed(ends, f"S.wait_for_go{kind}", 2) for _ in range(3)]
    ends.call("S.echo")
    service.go.set()
    assert [call.result(PATIENCE) for call in (first, *again)] == [1] * 4
    assert service.order == [1]


@BOTH
def test_a_call_whose_connection_is_lost_runs_on_for_whoever_sends_it_again(
    ends: Ends, service: Service, kind: str
) -> None:
    first = keyed(ends, f"S.wait_for_go{kind}", 1)
    begun(service)
    ends.cut()
    with pytest.raises(NetworkError):
        first.result(PATIENCE)
    again = keyed(ends, f"S.wait_for_go{kind}", 2)
    ends.call("S.echo")
    service.go.set()
    assert again.result(PATIENCE) == 1
    assert service.order == [1]


def test_an_error_is_an_outcome_that_is_given_again(ends: Ends) -> None:
    for _ in range(2):
        with pytest.raises(LookupError, match="once"):
            keyed(ends, "S.fail", LookupError("once")).result(PATIENCE)
    stats = ends.server.statistics.snapshot()["S.fail"]
    assert (stats.calls, stats.errors) == (1, 1)


@BOTH
def test_a_large_outcome_is_given_again_whole(ends: Ends, kind: str) -> None:
    data = bytes(range(256)) * 1000
    assert keyed(ends, f"S.echo{kind}", data).result(PATIENCE) == data
    assert keyed(ends, f"S.echo{kind}", b"").result(PATIENCE) == data


def test_a_stream_cannot_be_given_again(ends: Ends) -> None:
    assert list(keyed(ends, "S.count", 3).result(PATIENCE)) == [0, 1, 2]
    with pytest.raises(OutcomeGone, match=r"S\.count on .*machine began a stream for an earlier attempt") as caught:
        keyed(ends, "S.count", 3).result(PATIENCE)
    assert not caught.value.temporary


def test_a_call_that_another_process_began_is_refused(ends: Ends, service: Service) -> None:
    service.go.set()
    ends.on_link(lambda: ends.server.ledger.remember(b"one"))
    with pytest.raises(OutcomeGone, match=r"S\.wait_for_go was begun on .*replaced since") as caught:
        keyed(ends, "S.wait_for_go", 1).result(PATIENCE)
    assert not caught.value.temporary
    assert service.order == []


def test_each_key_is_told_once_before_its_call_begins(ends: Ends, service: Service) -> None:
    told: list[tuple[bytes, str, int]] = []
    ends.server.on_key = lambda key, method: told.append((key, method, len(service.order)))
    service.go.set()
    for _ in range(2):
        keyed(ends, "S.wait_for_go", 1).result(PATIENCE)
    ends.call("S.echo", 1)
    assert told == [(b"one", "S.wait_for_go", 0)]


@BOTH
def test_a_call_that_was_given_up_can_be_made_again(ends: Ends, service: Service, kind: str) -> None:
    first = keyed(ends, f"S.hold{kind}")
    begun(service)
    first.cancel()
    assert service.told.wait(PATIENCE)
    if kind:
        until(lambda: not ends.server.ledger._entries)
        assert keyed(ends, "S.echo", 5).result(PATIENCE) == 5


def test_a_bounded_call_that_is_given_up_before_it_begins_leaves_no_trace() -> None:
    service = Bounded(1)
    with memory({"S": service}) as ends:
        first = ends.submit("S.wait_for_go", 1)
        begun(service)
        second = keyed(ends, "S.wait_for_go", 2)
        ends.on_link(lambda: None)
        second.cancel()
        ends.on_link(lambda: None)
        service.go.set()
        assert first.result(PATIENCE) == 1
        until(lambda: not len(ends.server.ledger))
        assert keyed(ends, "S.wait_for_go", 3).result(PATIENCE) == 3


@BOTH
def test_who_waits_for_a_call_that_is_given_up_has_a_network_error_and_may_try_again(
    ends: Ends, service: Service, kind: str
) -> None:
    first = keyed(ends, f"S.fail_late{kind}")
    begun(service)
    again = keyed(ends, f"S.fail_late{kind}")
    ends.call("S.echo")
    first.cancel()
    with pytest.raises(NetworkError, match=rf"S\.fail_late{kind} broke off") as caught:
        again.result(PATIENCE)
    assert caught.value.temporary
    assert not is_remote(caught.value)


# --- from machine to machine


class Relay:
    """Calls another machine from within its methods."""

    def __init__(self, further: Ends) -> None:
        self.further = further

    def ask(self, method: str, *args: object) -> object:
        return self.further.link.call(method, *args)

    async def ask_async(self, method: str, *args: object) -> object:
        return await self.further.link.submit(method, args, {})


@pytest.fixture
def chain(service: Service) -> Iterator[Ends]:
    """The driver's end of: driver, machine m1, machine m2 with the service."""
    with memory({"S": service}, name="m2") as further, memory({"R": Relay(further)}) as near:
        yield near


@BOTH
def test_a_method_calls_another_machine(chain: Ends, kind: str) -> None:
    assert chain.call(f"R.ask{kind}", "S.add", 1, 2) == 3
    with pytest.raises(LookupError, match="far") as caught:
        chain.call(f"R.ask{kind}", "S.fail", LookupError("far"))
    assert is_remote(caught.value)


@BOTH
@pytest.mark.parametrize("far", ["hold", "hold_async"])
def test_a_deadline_reaches_through_a_method_to_another_machine(
    chain: Ends, service: Service, kind: str, far: str
) -> None:
    def attempt(seconds: float) -> None:
        with deadline(seconds), pytest.raises(DeadlineExceeded):
            chain.call(f"R.ask{kind}", f"S.{far}")

    once_begun(service.begun, attempt)
    assert service.told.wait(PATIENCE)
    caller, left, _ = chain.call(f"R.ask{kind}", "S.info", timeout=50)
    assert 40 < left <= 50
    assert caller == "driver"  # the chain's links all say so


@pytest.mark.parametrize("far", ["hold", "hold_async"])
def test_a_cancellation_reaches_through_an_async_method_to_another_machine(
    chain: Ends, service: Service, far: str
) -> None:
    call = chain.submit("R.ask_async", f"S.{far}")
    begun(service)
    call.cancel()
    assert service.told.wait(PATIENCE)


def test_waiting_in_an_async_method_for_a_call_on_its_own_loop_is_refused(service: Service) -> None:
    with memory({"S": service}) as ends:

        class Blocking:
            async def ask(self) -> object:
                return ends.link.submit("S.echo", (1,), {}).result()

        ends.server.table.register("B", Blocking())
        with pytest.raises(Exception, match="would stop the event loop that carries its answer"):
            ends.call("B.ask")


# --- for those that speak no frames


def invoke(ends: Ends, method: str, *args: object, timeout: float | None = None, **kwargs: object) -> Any:
    return ends.reactor.run(ends.server.invoke(DRIVER, method, args, kwargs, timeout), PATIENCE)


@BOTH
def test_invoke_returns_and_raises_what_the_method_does(ends: Ends, kind: str) -> None:
    assert invoke(ends, f"S.add{kind}", 1, b=2, c=3) == 6
    with pytest.raises(LookupError, match="odd"):
        invoke(ends, f"S.fail{kind}", LookupError("odd"))
    assert invoke(ends, f"S.info{kind}") == ("driver", None, False)


def test_invoke_awaits_what_a_plain_method_returns_to_be_awaited(ends: Ends) -> None:
    assert invoke(ends, "S.returns_coroutine", 5) == 5


@BOTH
def test_invoke_gives_the_iterator_of_a_stream(ends: Ends, kind: str) -> None:
    async def items() -> list[int]:
        source = await ends.server.invoke(DRIVER, f"S.count{kind}", (3,), {})
        return [n async for n in source] if kind else list(source)

    assert ends.reactor.run(items(), PATIENCE) == [0, 1, 2]


@BOTH
def test_invoke_refuses_what_does_not_fit(ends: Ends, kind: str) -> None:
    with pytest.raises(InvalidCall, match="the arguments do not fit"):
        invoke(ends, f"S.add{kind}")
    with pytest.raises(InvalidCall, match="no public method"):
        invoke(ends, "S.nix")


def test_a_type_error_of_an_invoked_methods_own_is_not_its_own_cause(ends: Ends) -> None:
    with pytest.raises(TypeError) as caught:
        invoke(ends, "S.fail_async", TypeError("mine"))
    assert caught.value.__cause__ is None


@BOTH
def test_invoke_ends_at_its_deadline_and_tells_the_method(ends: Ends, service: Service, kind: str) -> None:
    def attempt(seconds: float) -> None:
        with pytest.raises(DeadlineExceeded, match=rf"S\.hold{kind} had no outcome within {seconds:g} s"):
            invoke(ends, f"S.hold{kind}", timeout=seconds)

    once_begun(service.begun, attempt)
    assert service.told.wait(PATIENCE)


def test_a_deadline_is_told_by_name_also_if_the_loops_timer_goes_off_a_little_early(ends: Ends) -> None:
    # uvloop counts in whole milliseconds, so of many deadlines some are early.
    delays = [0.01 + 0.0013 * number for number in range(50)]

    async def scenario() -> None:
        async def call(seconds: float) -> None:
            with pytest.raises(DeadlineExceeded):
                await ends.server.invoke(DRIVER, "S.hold_async", (), {}, seconds)

        await asyncio.gather(*map(call, delays))

    ends.reactor.run(scenario(), PATIENCE)
    raw = Raw(ends)
    for ident, delay in enumerate(delays, 1):
        raw.send(ends.link.codec.call(CALL, 0, ident, "S.hold_async", (), {}, delay))
    for ident in range(1, len(delays) + 1):
        assert type(raw.answer(ident)) is DeadlineExceeded


@BOTH
def test_a_time_out_of_an_invoked_methods_own_is_its_own(ends: Ends, kind: str) -> None:
    with pytest.raises(TimeoutError, match="mine") as caught:
        invoke(ends, f"S.fail{kind}", TimeoutError("mine"), timeout=PATIENCE)
    assert type(caught.value) is TimeoutError


def test_what_would_end_the_machine_is_a_runtime_error_to_whoever_invokes(ends: Ends) -> None:
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        invoke(ends, "S.quit", "exit")
    with pytest.raises(RuntimeError, match="StopIteration"):
        invoke(ends, "S.fail", StopIteration("odd"))


# --- counts


def test_calls_are_counted_on_both_sides(ends: Ends) -> None:
    for _ in range(3):
        ends.call("S.echo", bytes(1000))
    with pytest.raises(LookupError):
        ends.call("S.fail", LookupError())
    there = ends.server.statistics.snapshot()
    here = ends.link.statistics.snapshot()
    assert (there["S.echo"].calls, there["S.echo"].errors) == (3, 0)
    assert (there["S.fail"].calls, there["S.fail"].errors) == (1, 1)
    assert (here["S.echo"].calls, here["S.fail"].errors) == (3, 1)
    assert here["S.echo"].bytes_out > 3000
    assert here["S.echo"].bytes_in > 3000
    assert 0 < there["S.echo"].longest <= there["S.echo"].total


def test_refused_calls_of_methods_that_there_are_are_counted_as_errors(service: Service) -> None:
    def authorize(peer: Peer, method: str) -> None:
        if method == "S.add":
            raise AuthenticationError("no")

    with memory({"S": service}, authorize=authorize) as ends:
        for method, kind in (("S.add", AuthenticationError), ("S.nix", InvalidCall)):
            with pytest.raises(kind):
                ends.call(method, 1)
        list(keyed(ends, "S.count", 3).result(PATIENCE))
        with pytest.raises(OutcomeGone, match="is not given twice"):
            keyed(ends, "S.count", 3).result(PATIENCE)
        there = ends.server.statistics.snapshot()
    assert {name: (told.calls, told.errors) for name, told in there.items()} == {"S.add": (1, 1), "S.count": (2, 1)}
