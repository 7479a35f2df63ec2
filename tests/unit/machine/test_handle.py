"""The handle: what it tells, when it waits, and how calls on it end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import math
import pickle
import re
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from bigmachine import Machine, State, deadline
from bigmachine.errors import (
    BigmachineError,
    Cause,
    DeadlineExceeded,
    InvalidCall,
    MachineStopped,
    NetworkError,
    is_remote,
)
from bigmachine.machine import owned
from bigmachine.rpc import Call
from bigmachine.session import Session
from bigmachine.systems.inprocess import InprocessSystem
from tests.unit.inside import Echo, echo_of, eventually


class Slow:
    """Its `init` takes until the test lets it end; then it can be called."""

    begun = threading.Event()
    may_end = threading.Event()

    def init(self, session: object) -> None:
        Slow.begun.set()
        assert Slow.may_end.wait(10)

    def same(self, value: object) -> object:
        return value


class Unready:
    def init(self, session: object) -> None:
        raise LookupError("no data here")


@pytest.fixture
def starting(session: Session) -> Iterator[Machine]:
    """A machine that is STARTING until `Slow.may_end` is set."""
    Slow.begun.clear()
    Slow.may_end.clear()
    (machine,) = session.start(services=[Slow()])
    assert Slow.begun.wait(10)
    yield machine
    Slow.may_end.set()


def cause_of(machine: Machine) -> str:
    assert isinstance(machine.error, MachineStopped)
    return machine.error.certificate.cause


class Large:
    """An argument that the test can see go."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ()


# what it is


def test_it_tells_what_it_is(machine: Machine) -> None:
    assert re.fullmatch(r"inprocess:0/i[0-9a-f]{6}-m1", machine.address)
    assert machine.name == "m1"
    assert machine.owned is True
    assert machine.maxprocs == 1
    assert machine.hostname
    assert machine.state is State.RUNNING
    assert machine.error is None
    assert repr(machine) == f"<Machine m1 {machine.address} RUNNING>"


def test_a_starting_machine_shows_how_far_it_is(starting: Machine) -> None:
    assert repr(starting) == f"<Machine m1 {starting.address} STARTING (executing)>"


def test_a_stopped_machine_shows_why(machine: Machine) -> None:
    machine.cancel()
    assert repr(machine) == f"<Machine m1 {machine.address} STOPPED: MachineStopped>"


def test_a_machine_is_itself_only(session: Session, machine: Machine) -> None:
    (other,) = session.start(services=[Echo()])
    assert machine == machine  # noqa: PLR0124 (that is the claim)
    assert machine != other
    assert len({machine, other}) == 2


# waiting


def test_wait_returns_the_state_that_is_reached(machine: Machine) -> None:
    assert machine.wait() is State.RUNNING
    assert machine.wait(State.UNSTARTED) is State.RUNNING
    assert machine.wait(State.STARTING) is State.RUNNING


def test_wait_is_woken_by_the_state(starting: Machine) -> None:
    waiting = concurrent.futures.ThreadPoolExecutor(1)
    with waiting:
        waited = waiting.submit(starting.wait, State.RUNNING, 10)
        assert not waited.done()
        Slow.may_end.set()
        assert waited.result(10) is State.RUNNING


def test_wait_for_stopped_returns_it(machine: Machine) -> None:
    machine.shutdown()
    assert machine.wait(State.STOPPED, 0) is State.STOPPED


def test_wait_for_running_returns_stopped_if_the_machine_ran_in_between(machine: Machine) -> None:
    machine.shutdown()
    assert machine.wait(State.RUNNING, 0) is State.STOPPED


def test_wait_for_running_raises_why_the_machine_never_ran(session: Session) -> None:
    (machine,) = session.start(services=[Unready()])
    with pytest.raises(MachineStopped, match="LookupError: no data here") as caught:
        machine.wait(State.RUNNING, 10)
    assert caught.value.certificate.cause == Cause.INIT_FAILED
    assert isinstance(caught.value.__cause__, LookupError)
    assert machine.wait(State.STARTING, 0) is State.STOPPED


def test_each_wait_raises_an_exception_of_its_own(session: Session) -> None:
    (machine,) = session.start(services=[Unready()])
    with pytest.raises(MachineStopped) as first:
        machine.wait(State.RUNNING, 10)
    with pytest.raises(MachineStopped) as second:
        machine.wait(State.RUNNING, 10)
    assert first.value is not second.value


def test_wait_ends_with_its_timeout_and_tells_how_far_the_machine_is(starting: Machine) -> None:
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"m1 .* was not RUNNING in time: it is STARTING \(executing\)"):
        starting.wait(State.RUNNING, 0.03)
    assert 0.03 <= time.monotonic() - begin < 5


@pytest.mark.parametrize("timeout", [0, -1.0])
def test_a_timeout_that_has_passed_does_not_wait(starting: Machine, timeout: float) -> None:
    with pytest.raises(DeadlineExceeded):
        starting.wait(State.RUNNING, timeout)


def test_wait_ends_with_the_deadline_around_it(starting: Machine) -> None:
    begin = time.monotonic()
    with deadline(0.03), pytest.raises(TimeoutError):
        starting.wait(State.RUNNING, 10)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("timeout", [math.inf, 1e300, threading.TIMEOUT_MAX * 2])
def test_wait_may_be_told_to_wait_for_ever(starting: Machine, timeout: float) -> None:
    threading.Timer(0.02, Slow.may_end.set).start()
    assert starting.wait(State.RUNNING, timeout) is State.RUNNING


# calls


def test_a_call_waits_for_the_machine_to_run(starting: Machine) -> None:
    call = starting.submit("Slow.same", 3)
    with pytest.raises(DeadlineExceeded):
        call.result(0.02)
    Slow.may_end.set()
    assert call.result(10) == 3


def test_a_call_while_it_starts_ends_with_its_deadline(starting: Machine) -> None:
    with deadline(0.02), pytest.raises(DeadlineExceeded):
        starting.call("Slow.same", 3)


def test_a_call_is_made_by_name_or_by_function(machine: Machine) -> None:
    assert machine.call("Echo.same", "a") == "a"
    assert machine.call(Echo.same, "b") == "b"
    assert machine.call(Echo.same_async, "c") == "c"
    assert machine.submit(Echo.same, value="d").result() == "d"
    assert list(machine.call(Echo.count, 3)) == [0, 1, 2]


def test_a_call_can_be_awaited(machine: Machine) -> None:
    async def main() -> list[object]:
        return list(await asyncio.gather(*(machine.submit(Echo.same, n) for n in range(5))))

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_what_a_method_raises_arrives_as_it_is(machine: Machine) -> None:
    with pytest.raises(LookupError, match="odd") as caught:
        machine.call(Echo.fail, LookupError("odd"))
    assert is_remote(caught.value)


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("Ecko.same", "no service 'Ecko' on this machine; did you mean 'Echo'"),
        ("Echo.sane", "has no public method 'sane'; did you mean 'same'"),
        ("same", "'same' names no method"),
        ("Supervisor.restart", "has no public method 'restart'"),
        (len, "names no method"),
        (3, "names no method"),
    ],
)
def test_a_call_of_what_is_not_there_is_refused(machine: Machine, method: object, text: str) -> None:
    with pytest.raises(InvalidCall, match=text):
        machine.call(method)  # type: ignore[call-overload]  # on purpose


def test_what_is_wrong_with_a_submitted_call_is_its_outcome(machine: Machine) -> None:
    call = machine.submit(Echo.same, threading.Lock())
    assert isinstance(call.exception(10), InvalidCall)
    assert repr(call) == "<Call Echo.same #0 raised InvalidCall>"


def test_a_call_on_a_stopped_machine_fails_at_once_with_its_certificate(machine: Machine) -> None:
    machine.shutdown()
    begin = time.monotonic()
    for method in ("Echo.same", Echo.same, "Supervisor.ping"):
        with pytest.raises(MachineStopped) as caught:
            machine.call(method)
        assert caught.value.certificate.cause == Cause.SHUTDOWN
    assert isinstance(machine.submit(Echo.same).exception(0), MachineStopped)
    assert time.monotonic() - begin < 1


def test_a_call_after_the_sessions_end_fails_at_once(machine: Machine, session: Session) -> None:
    session.shutdown()
    for _ in range(2):
        with pytest.raises(MachineStopped):
            machine.call(Echo.same)
        with pytest.raises(MachineStopped):
            machine.retry_call(Echo.same)


def test_a_pending_call_fails_when_the_machine_is_killed(machine: Machine, system: InprocessSystem) -> None:
    call = machine.submit(Echo.wait)
    assert echo_of(system).begun.wait(10)
    echo = echo_of(system)
    assert system.kill(machine)
    error = call.exception(10)
    assert isinstance(error, MachineStopped)
    assert error.certificate.cause == Cause.SIGNAL
    assert error.certificate.signal == signal.SIGKILL
    echo.may_end.set()


def test_a_call_on_the_event_loop_is_refused_with_the_way_out(machine: Machine, session: Session) -> None:
    async def on_the_loop() -> None:
        machine.call(Echo.same)

    with pytest.raises(BigmachineError, match=r"use 'await machine\.submit\(\.\.\.\)'"):
        session._reactor.run(on_the_loop(), 10)


def test_an_interrupt_while_a_call_is_waited_for_gives_it_up(
    machine: Machine, system: InprocessSystem, interrupts: Callable[[threading.Event], None]
) -> None:
    interrupts(echo_of(system).begun)
    with pytest.raises(KeyboardInterrupt):
        machine.call(Echo.sleep, 60.0)
    eventually(lambda: not any(c.runs for c in system.machines()[0].server.channels), "the method goes on")


# calls that are repeated


def test_a_repeated_call_survives_a_lost_connection_and_runs_once(
    machine: Machine, system: InprocessSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned, "_VERDICT", 0.02)  # the machine lives, and so does its agent
    echo = echo_of(system)
    with concurrent.futures.ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(machine.retry_call, Echo.wait)
        assert echo.begun.wait(10)
        break_connection(machine)
        echo.may_end.set()
        assert waiting.result(10) is True
    with pytest.raises(NetworkError):
        fail_once(machine, system)


def test_a_call_with_a_stream_itself_as_an_argument_is_attempted_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[object] = []

    def submit(method: object, args: object, kwargs: object, key: bytes) -> Call[object]:
        attempts.append(args)
        call: Call[object] = Call(1, "Echo.same")
        call.fail(NetworkError("lost"))
        return call

    monkeypatch.setattr(machine, "_submit", submit)
    with pytest.raises(NetworkError, match="lost") as caught:
        machine.retry_call(Echo.same, iter([1, 2]))
    assert len(attempts) == 1
    assert "give a function without arguments" in caught.value.__notes__[0]


def break_connection(machine: Machine) -> None:
    """Break the connection to the machine's program, as a network does."""
    link = machine._program
    assert link.main is not None
    link.reactor.post(link.main.abort, NetworkError("the cable was pulled"))


def fail_once(machine: Machine, system: InprocessSystem) -> None:
    echo = echo_of(system)
    echo.begun.clear()
    echo.may_end.clear()
    call = machine.submit(Echo.wait)
    assert echo.begun.wait(10)
    break_connection(machine)
    try:
        call.result(10)
    finally:
        echo.may_end.set()


def test_a_repeated_call_does_not_pause_beyond_the_machines_end(machine: Machine) -> None:
    resting = threading.Thread(target=machine._rest, args=(60.0,))
    resting.start()
    begin = time.monotonic()
    machine.cancel()
    resting.join(10)
    assert not resting.is_alive()
    assert time.monotonic() - begin < 5


# its host


def test_it_tells_of_its_host(machine: Machine) -> None:
    assert machine.mem_info().total > 0
    assert machine.disk_info().total > 0
    assert machine.load_info().load1 >= 0.0


def test_the_supervisors_methods_are_known_by_their_names_whichever_string_that_is(machine: Machine) -> None:
    for _ in range(2):
        assert machine.submit(f"Supervisor.{'getpid'.lower()}").result(10) > 0


def test_the_supervisor_is_called_by_name(machine: Machine) -> None:
    assert machine.call("Supervisor.ping", "x") == "x"
    assert machine.call("Supervisor.expvars")["services"] == ["Echo", "Supervisor"]
    assert machine.call("Supervisor.register", "Late", Echo()) is True
    assert machine.call("Late.same", 1) == 1
    assert machine.call("Supervisor.register", "Late", Echo()) is False


def test_keepalives_are_remembered_the_most_recent_first(machine: Machine) -> None:
    eventually(machine.keepalive_reply_times, "no keepalive was answered")
    for took in range(100, 112):
        machine.kept_alive(float(took), 7.0)
    times = machine.keepalive_reply_times()
    assert times[:3] == [111.0, 110.0, 109.0]
    assert len(times) == 10
    assert machine.next_keepalive == pytest.approx(7.0, abs=1.0)


def test_there_is_no_next_keepalive_before_the_first_or_after_the_end(starting: Machine, session: Session) -> None:
    eventually(lambda: starting.next_keepalive is not None, "no keepalive was answered")
    starting.cancel()
    assert starting.next_keepalive is None


# its end


def test_cancel_fails_pending_calls_and_stops_the_handle_at_once(machine: Machine, system: InprocessSystem) -> None:
    echo = echo_of(system)
    call = machine.submit(Echo.wait)
    assert echo.begun.wait(10)
    machine.cancel()
    assert machine.state is State.STOPPED
    assert cause_of(machine) == Cause.CANCELLED
    assert isinstance(call.exception(10), MachineStopped)
    eventually(lambda: not system.machines(), "the machine does not clean up by itself")
    echo.may_end.set()


def test_cancel_while_it_starts_ends_it_too(starting: Machine, system: InprocessSystem) -> None:
    starting.cancel()
    with pytest.raises(MachineStopped):
        starting.wait(State.RUNNING, 0)
    eventually(lambda: not system.machines(), "the machine does not clean up by itself")
    Slow.may_end.set()


def test_the_first_end_counts(machine: Machine) -> None:
    machine.shutdown()
    machine.cancel()
    assert cause_of(machine) == Cause.SHUTDOWN


def test_shutdown_ends_the_machine_and_may_be_called_twice(machine: Machine, system: InprocessSystem) -> None:
    machine.shutdown()
    assert machine.state is State.STOPPED
    assert cause_of(machine) == Cause.SHUTDOWN
    assert system.machines() == []
    machine.shutdown()


def test_shutdown_on_the_event_loop_is_refused(machine: Machine, session: Session) -> None:
    async def on_the_loop() -> None:
        machine.shutdown()

    with pytest.raises(BigmachineError, match="would stop the event loop"):
        session._reactor.run(on_the_loop(), 10)
    assert machine.state is State.RUNNING


def test_a_stopped_machine_leaves_the_list(machine: Machine, session: Session) -> None:
    assert session.machines() == [machine]
    machine.shutdown()
    assert session.machines() == []


# sent


def test_a_handle_comes_back_as_itself(machine: Machine) -> None:
    assert pickle.loads(pickle.dumps(machine)) is machine
    assert machine.call(Echo.same, [machine]) == [machine]


def test_a_handle_is_of_use_in_its_session_only(machine: Machine, session: Session) -> None:
    data = pickle.dumps(machine)
    session.shutdown()
    with pytest.raises(InvalidCall, match="arrived where its session is not"):
        pickle.loads(data)


def test_a_handle_arrives_ready_to_call_also_before_its_machine_runs(session: Session, machine: Machine) -> None:
    Slow.may_end.clear()
    (late,) = session.start(services={"Echo": Late()})
    call = machine.submit(Echo.ask, late, 7)
    Slow.may_end.set()
    assert call.result(10) == 7


class Late(Echo):
    def init(self, session: object) -> None:
        assert Slow.may_end.wait(10)


@pytest.mark.parametrize("is_stopped", [False, True])
@pytest.mark.parametrize(
    "call",
    [Machine.call, Machine.retry_call, lambda machine, *args: machine.submit(*args).result()],
    ids=["call", "retry_call", "submit"],
)
def test_a_failed_call_lets_go_of_its_arguments_at_once(
    machine: Machine, call: Callable[..., object], is_stopped: bool
) -> None:
    machine.wait(timeout=10)
    if is_stopped:
        machine.shutdown()
    large = Large()
    held = weakref.ref(large)
    gc.disable()  # it would free them some time, after as many more calls as it likes
    try:
        with contextlib.suppress(BigmachineError):
            call(machine, "Echo.nothing_of_the_kind", large)
        del large
        eventually(lambda: held() is None, "the arguments are kept")
    finally:
        gc.enable()
