"""The machines of a program, from the first start to the last shutdown."""

from __future__ import annotations

import atexit
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import pytest

import bigmachine
from bigmachine import Launched, Machine, State, System
from bigmachine.agent import Output
from bigmachine.errors import (
    BigmachineError,
    Cause,
    InvalidCall,
    MachineStopped,
    ProvisionError,
)
from bigmachine.session import Session
from bigmachine.session.order import Order
from bigmachine.system import Ticket
from bigmachine.systems.inprocess import InprocessSystem
from tests.unit.inside import Echo, echo_of, eventually, inside, new_threads


class Greeter:
    """Keeps the session that its `init` was given."""

    sessions: ClassVar[list[object]] = []

    def init(self, session: object) -> None:
        Greeter.sessions.append(session)

    def session_of_call(self) -> bool:
        return bigmachine.current_call().session is Greeter.sessions[-1]

    def call_by_address(self, address: str, value: object) -> object:
        return bigmachine.current_call().session.dial(address).call(Echo.same, value)

    def start_another(self) -> None:
        bigmachine.current_call().session.start(services=[Echo()])


class Partial(InprocessSystem):
    """Provides fewer machines than it is asked for, and keeps count of what it gives and gets back."""

    def __init__(self, provides: int) -> None:
        super().__init__()
        self.provides = provides
        self.asked: list[int] = []
        self.released: list[Launched] = []
        self.release_threads: set[str] = set()

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        self.asked.append(n)
        return super().launch(n, ticket)[: self.provides]

    def release(self, place: Launched) -> None:
        self.released.append(place)
        self.release_threads.add(threading.current_thread().name)


class Broken(System):
    """Fails where it is told to; notes that it was shut down."""

    name = "broken"

    def __init__(self, where: str, error: BaseException) -> None:
        self.where = where
        self.error = error
        self.shutdowns = 0

    def prepare(self) -> None:
        if self.where == "prepare":
            raise self.error

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        raise self.error

    def shutdown(self, timeout: float) -> None:
        self.shutdowns += 1


def cause_of(machine: Machine) -> str:
    assert isinstance(machine.error, MachineStopped)
    return machine.error.certificate.cause


# beginning


def test_a_session_is_a_driver_with_a_system_and_a_name(session: Session, system: InprocessSystem) -> None:
    assert session.is_driver is True
    assert session.system is system
    assert session.name == ""
    assert session.machines() == []
    assert repr(session).endswith(" inprocess, 0 machines>")


def test_a_session_may_have_a_name() -> None:
    with inside(name="nightly") as (_, session):
        assert session.name == "nightly"
        assert repr(session) == "<Session nightly inprocess, 0 machines>"


def test_a_system_is_chosen_by_its_name() -> None:
    with bigmachine.start("inprocess") as session:
        assert isinstance(session.system, InprocessSystem)


@pytest.mark.parametrize("odd", [InprocessSystem, 3, b"local"])
def test_what_is_no_system_is_refused(odd: Any) -> None:
    with pytest.raises(InvalidCall, match="takes a System or the name of one"):
        bigmachine.start(odd)


def test_a_system_has_one_session(session: Session, system: InprocessSystem) -> None:
    with pytest.raises(ProvisionError, match="'inprocess' system has a session already: make a System for each"):
        bigmachine.start(system)
    (machine,) = session.start(services=[Echo()])
    assert machine.call(Echo.same, 1) == 1


def test_a_session_that_cannot_begin_gives_its_system_back() -> None:
    before = set(threading.enumerate())
    system = Broken("prepare", ProvisionError("no licence"))
    with pytest.raises(ProvisionError, match="no licence"):
        bigmachine.start(system)
    assert system.shutdowns == 1
    assert not new_threads(before)


def test_two_sessions_live_beside_each_other() -> None:
    with inside() as (_, one), inside() as (_, other):
        (here,), (there,) = one.start(services=[Echo()]), other.start(services=[Echo()])
        assert here.name == there.name == "m1"
        assert (here.call(Echo.same, 1), there.call(Echo.same, 2)) == (1, 2)
        one.shutdown()
        assert here.state is State.STOPPED
        assert there.call(Echo.same, 3) == 3


# starting machines


def test_machines_are_started_and_listed(session: Session) -> None:
    first = session.start(2, services=[Echo()])
    second = session.start(services={"E": Echo()})
    assert [machine.name for machine in first + second] == ["m1", "m2", "m3"]
    assert session.machines() == first + second
    assert second[0].call("E.same", 5) == 5
    assert {machine.state for machine in first} <= {State.STARTING, State.RUNNING}


def test_the_list_is_a_snapshot(session: Session) -> None:
    session.start(services=[Echo()])
    listed = session.machines()
    listed.clear()
    assert len(session.machines()) == 1


def test_each_machine_has_services_of_its_own(session: Session, system: InprocessSystem) -> None:
    echo = Echo()
    one, other = session.start(2, services=[echo])
    for _ in range(3):
        one.call(Echo.same)
    other.call(Echo.same)
    assert sorted(echo_of(system, number).calls for number in range(2)) == [1, 3]
    assert echo.calls == 0


def test_a_service_is_pickled_once_for_all_machines_and_by_whoever_starts_them(session: Session) -> None:
    """On the event loop, once a machine, a large one stopped the keepalives."""
    Heavy.pickled_by.clear()
    machines = session.start(5, services=[Heavy()])
    for machine in machines:
        machine.wait(State.RUNNING, 10)
    assert Heavy.pickled_by == [threading.current_thread().name]


class Heavy:
    pickled_by: ClassVar[list[str]] = []

    def __reduce__(self) -> tuple[object, ...]:
        Heavy.pickled_by.append(threading.current_thread().name)
        return (Heavy, ())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"services": []}, "no services provided"),
        ({"services": {"E": threading.Lock()}}, "cannot be pickled"),
        ({"services": [Echo()], "n": 0}, "at least 1"),
        ({"services": [Echo()], "args": "-n"}, "no sequence of strings"),
        ({"services": [Echo()], "environ": {"A": 1}}, "have to be strings"),
    ],
)
def test_wrong_arguments_start_nothing(arguments: dict[str, Any], text: str) -> None:
    system = Partial(1)
    with inside(system) as (_, session):
        with pytest.raises(InvalidCall, match=text):
            session.start(**arguments)
        assert session.machines() == []
    assert system.asked == []


def test_services_must_be_given(session: Session) -> None:
    with pytest.raises(TypeError, match="services"):
        session.start(1)  # type: ignore[call-arg]  # on purpose


def test_fewer_machines_than_asked_for_are_what_there_is() -> None:
    system = Partial(2)
    with inside(system) as (_, session):
        machines = session.start(5, services=[Echo()])
        assert system.asked == [5]
        assert [machine.call(Echo.same, 1) for machine in machines] == [1, 1]


def test_no_machine_at_all_is_an_error() -> None:
    with inside(Partial(0)) as (_, session), pytest.raises(ProvisionError, match="started no machine; 3 were asked"):
        session.start(3, services=[Echo()])


@pytest.mark.parametrize("error", [ProvisionError("quota"), ZeroDivisionError("a defect of the system")])
def test_what_a_system_raises_is_raised(error: Exception) -> None:
    system = Broken("launch", error)
    with bigmachine.start(system) as session:
        with pytest.raises(type(error)):
            session.start(services=[Echo()])
        assert session.machines() == []
    assert system.shutdowns == 1


def test_a_start_that_fails_half_way_gives_back_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Go original kept such machines until they ended themselves."""
    system = Partial(3)
    places: list[Any] = []
    real = Order.spec

    def fails_at_the_second(*args: Any) -> Any:
        places.append(args)
        if len(places) == 2:
            raise MemoryError("no more")
        return real(*args)

    monkeypatch.setattr(Order, "spec", fails_at_the_second)
    with inside(system) as (_, session):
        with pytest.raises(MemoryError):
            session.start(3, services=[Echo()])
        assert session.machines() == []
        eventually(lambda: len(system.released) == 3, f"{len(system.released)} of 3 are given back")
        assert system.machines() == []
        (machine,) = session.start(services=[Echo()])[:1]
        assert machine.call(Echo.same, 1) == 1


def test_every_place_is_released_when_its_machine_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    system = Partial(3)
    with inside(system) as (_, session):
        one, other, third = session.start(3, services=[Echo()])
        for machine in (one, other, third):
            machine.wait(State.RUNNING, 10)
        one.shutdown()
        assert len(system.released) == 1
        system.kill(other)
        other.wait(State.STOPPED, 10)
        eventually(lambda: len(system.released) == 2, "a killed machine's place is not released")
    assert len(system.released) == 3


def test_a_release_that_raises_does_no_harm(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(place: Launched) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(session.system, "release", fail)
    (machine,) = session.start(services=[Echo()])
    machine.shutdown()
    assert cause_of(machine) == Cause.SHUTDOWN


# what services see of it


def test_a_services_init_and_calls_have_the_machines_session(session: Session) -> None:
    (machine,) = session.start(services=[Greeter()])
    assert machine.call(Greeter.session_of_call) is True
    seen = Greeter.sessions[-1]
    assert isinstance(seen, Session)
    assert seen is not session
    assert seen.is_driver is False


def test_machines_call_machines_by_handle_and_by_address(session: Session) -> None:
    one, other = session.start(2, services=[Greeter(), Echo()])
    assert one.call(Echo.ask, other, "by handle") == "by handle"
    assert one.call(Greeter.call_by_address, other.address, "by address") == "by address"


def test_a_machine_cannot_start_machines(session: Session) -> None:
    (machine,) = session.start(services=[Greeter()])
    with pytest.raises(InvalidCall, match="a machine cannot start machines"):
        machine.call(Greeter.start_another)


def test_many_inits_that_wait_run_at_once(session: Session) -> None:
    """Inside one process they must not share a few threads."""
    Meeting.barrier = threading.Barrier(20)
    machines = session.start(20, services=[Meeting()])
    for machine in machines:
        machine.wait(State.RUNNING, 10)


class Meeting:
    barrier = threading.Barrier(1)

    def init(self, session: object) -> None:
        Meeting.barrier.wait(10)


# output


def test_what_machines_write_is_shown_with_their_names(
    session: Session, system: InprocessSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    (machine,) = session.start(services=[Echo()])
    machine.wait(State.RUNNING, 10)
    for data in (b"one\ntw", b"o\nlast"):
        session._reactor.post(system.feed.put, partial(_output, machine.machine_id, data))
    machine.shutdown()
    assert capsys.readouterr().err == "m1: one\nm1: two\nm1: last\n"


def _output(machine_id: str, data: bytes, seq: int) -> Output:
    return Output(seq, machine_id, 0.0, "stdout", data)


def test_an_unexpected_end_is_logged_and_a_wanted_one_is_not(
    session: Session, system: InprocessSystem, caplog: pytest.LogCaptureFixture
) -> None:
    one, other, third = session.start(3, services=[Echo()])
    one.shutdown()
    other.cancel()
    system.kill(third)
    third.wait(State.STOPPED, 10)
    eventually(lambda: caplog.records, "nothing is logged")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{third.address}: machine stopped with error machine m3 stopped (signal) by SIGKILL" in caplog.text


# the end


def test_leaving_the_block_ends_all_machines(system: InprocessSystem) -> None:
    with inside(system) as (_, session):
        machines = session.start(3, services=[Echo()])
    assert [cause_of(machine) for machine in machines] == ["shutdown"] * 3
    assert session.machines() == []
    assert system.machines() == []


def test_an_exception_in_the_block_ends_all_machines_and_goes_on(system: InprocessSystem) -> None:
    machines: list[Machine] = []

    def fail() -> None:
        with bigmachine.start(system) as session:
            machines.extend(session.start(services=[Echo()]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert machines[0].state is State.STOPPED


def test_ctrl_c_in_the_block_ends_all_machines_and_goes_on(
    system: InprocessSystem, interrupts: Callable[[threading.Event], None]
) -> None:
    machines: list[Machine] = []

    def run() -> None:
        with bigmachine.start(system) as session:
            machines.extend(session.start(services=[Echo()]))
            machines[0].wait(State.RUNNING, 10)
            interrupts(echo_of(system).begun)
            machines[0].call(Echo.sleep, 60.0)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert machines[0].state is State.STOPPED
    assert system.machines() == []


def test_after_its_end_nothing_can_be_started(session: Session) -> None:
    session.shutdown()
    with pytest.raises(BigmachineError, match="was shut down; start a new one"):
        session.start(services=[Echo()])
    with pytest.raises(BigmachineError, match="was shut down; start a new one"):
        session.dial("127.0.0.1:80/h1-m1")


def test_shutdown_may_be_called_twice(session: Session) -> None:
    session.start(services=[Echo()])
    session.shutdown()
    begin = time.monotonic()
    session.shutdown()
    assert time.monotonic() - begin < 1


def test_two_threads_may_shut_it_down_and_both_wait_for_the_end(session: Session) -> None:
    machines = session.start(3, services=[Echo()])
    states: list[set[State]] = []

    def shut_down() -> None:
        session.shutdown()
        states.append({machine.state for machine in machines})

    threads = [threading.Thread(target=shut_down) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert states == [{State.STOPPED}] * 5


def test_a_signals_handler_may_shut_it_down_while_a_call_waits(session: Session, system: InprocessSystem) -> None:
    (machine,) = session.start(services=[Echo()])
    machine.wait(State.RUNNING, 10)
    begun = echo_of(system).begun
    before = signal.signal(signal.SIGUSR2, lambda *_: session.shutdown())
    main = threading.main_thread().ident or 0
    threading.Thread(target=_signal_until_over, args=(session, begun, main)).start()
    try:
        with pytest.raises(MachineStopped):
            machine.call(Echo.sleep, 60.0)
        eventually(session._has_ended.is_set, "it does not end")
    finally:
        signal.signal(signal.SIGUSR2, before)


def _signal_until_over(session: Session, begun: threading.Event, main: int) -> None:
    begun.wait(10)
    while not session._has_ended.is_set():
        signal.pthread_kill(main, signal.SIGUSR2)
        session._has_ended.wait(0.05)


def test_a_signals_handler_may_interrupt_a_start_at_any_line() -> None:
    """No lock that the main thread may hold is needed for the end, and no machine is forgotten."""
    line, interrupted = 0, True
    while interrupted:
        line += 1
        with inside() as (system, session):
            began = time.monotonic()
            interrupted = _start_interrupted(session, line)
            assert time.monotonic() - began < 5, f"line {line}"
            assert session.machines() == [], f"line {line}"
            assert system.machines() == [], f"line {line}"
            assert not session._owned, f"line {line}"
            assert not session._places, f"line {line}"
    assert line > 30


def _start_interrupted(session: Session, line: int) -> bool:
    """Start a machine, and shut the session down at the given line of that; False if it has fewer.

    A line of a loop counts once.
    """
    seen = 0
    places: set[tuple[object, int]] = set()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if not frame.f_globals["__name__"].startswith("bigmachine.session"):
            return None
        place = (frame.f_code, frame.f_lineno)
        if event == "line" and place not in places:
            places.add(place)
            seen += 1
        if seen == line:
            seen += 1
            session.shutdown()  # as a signal's handler does
        return trace

    sys.settrace(trace)
    try:
        machines = session.start(services=[Echo()])
    except BigmachineError as error:
        assert "shut down" in str(error)  # noqa: PT017 (it may also come too late for that)
    else:
        assert seen < line or machines[0].state is State.STOPPED
    finally:
        sys.settrace(None)
    if seen < line:
        session.shutdown()
    return seen >= line


def test_a_shutdown_inside_a_shutdown_returns(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    real = session._shut_down

    def interrupted(end: float) -> None:
        session.shutdown()  # as a signal's handler does
        real(end)

    monkeypatch.setattr(session, "_shut_down", interrupted)
    begin = time.monotonic()
    session.shutdown()
    assert time.monotonic() - begin < 5
    assert session._has_ended.is_set()


def test_shutdown_on_the_event_loop_is_refused_and_changes_nothing(session: Session) -> None:
    async def on_the_loop() -> None:
        session.shutdown()

    with pytest.raises(BigmachineError, match="call it from another thread"):
        session._reactor.run(on_the_loop(), 10)
    (machine,) = session.start(services=[Echo()])
    assert machine.call(Echo.same, 1) == 1


def test_a_start_that_meets_a_shutdown_raises_and_leaves_nothing(session: Session) -> None:
    system = session.system
    assert isinstance(system, InprocessSystem)
    launched, may_go_on = threading.Event(), threading.Event()
    real = system.launch

    def slow(n: int, ticket: Ticket) -> Sequence[Launched]:
        places = real(n, ticket)
        launched.set()
        assert may_go_on.wait(10)
        return places

    system.launch = slow  # type: ignore[method-assign]  # a system that takes its time
    errors: list[BaseException] = []

    def start() -> None:
        try:
            session.start(2, services=[Echo()])
        except BigmachineError as error:
            errors.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    assert launched.wait(10)
    session.shutdown()
    may_go_on.set()
    starting.join(10)
    assert len(errors) == 1
    assert "was shut down" in str(errors[0])
    assert session.machines() == []
    assert system.machines() == []


def test_starts_and_shutdowns_may_race() -> None:
    for _ in range(12):
        with inside() as (system, session):
            errors: list[Exception] = []
            threads = [threading.Thread(target=_start_quietly, args=(session, errors)) for _ in range(3)]
            for thread in threads:
                thread.start()
            session.shutdown()
            for thread in threads:
                thread.join(10)
            assert not [error for error in errors if "was shut down" not in str(error)]
            assert not system.machines()


def _start_quietly(session: Session, errors: list[Exception]) -> None:
    try:
        session.start(2, services=[Echo()])
    except Exception as error:  # noqa: BLE001 (the test looks at it)
        errors.append(error)


def test_a_method_that_is_still_running_does_not_hold_the_end_up(
    session: Session, system: InprocessSystem, capfd: pytest.CaptureFixture[str]
) -> None:
    (machine,) = session.start(services=[Echo()])
    call = machine.submit(Echo.wait)
    eventually(system.machines, "it does not start")
    eventually(lambda: system.machines()[0].service("Echo"), "it has no service")
    echo = echo_of(system)
    assert echo.begun.wait(10)
    begin = time.monotonic()
    session.shutdown()
    assert time.monotonic() - begin < 5
    assert isinstance(call.exception(0), MachineStopped)
    echo.may_end.set()
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("bigmachine")], "a thread is left")
    assert capfd.readouterr().err == ""


def test_the_interpreters_end_is_the_sessions_end(tmp_path: Path) -> None:
    done = _run(
        """if True:
        import atexit, bigmachine
        from tests.unit.inside import Echo
        session = bigmachine.start("inprocess")
        machine, = session.start(services=[Echo()])
        print(machine.call(Echo.same, 3), flush=True)
        atexit.register(lambda: print(machine.state.name))
        """,
        tmp_path,
    )
    assert done.stdout == "3\nRUNNING\n"  # that function was registered last, and runs first
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_fork_of_the_driver_does_not_end_its_machines(tmp_path: Path) -> None:
    done = _run(
        """if True:
        import os, sys, time, bigmachine
        from tests.unit.inside import Echo
        with bigmachine.start("inprocess") as session:
            machine, = session.start(services=[Echo()])
            machine.wait()
            begin = time.monotonic()
            pid = os.fork()
            if not pid:
                sys.exit(7)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), time.monotonic() - begin < 5)
            print(machine.call(Echo.same, 3))
        """,
        tmp_path,
    )
    assert done.stdout == "7 True\n3\n", done.stderr


def _run(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    paths = [path for path in sys.path if path]
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *paths])},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_session_that_has_ended_is_not_kept_for_the_interpreters_end(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []
    monkeypatch.setattr(atexit, "register", kept.append)
    monkeypatch.setattr(atexit, "unregister", kept.remove)
    with bigmachine.start("inprocess"):
        assert len(kept) == 1
    assert kept == []


# for other clients


def test_credentials_are_written_for_this_user_only(session: Session, tmp_path: Path) -> None:
    credentials = session.write_credentials(tmp_path / "keys", "curl")
    for path in (credentials.ca, credentials.certificate, credentials.key):
        assert stat.S_IMODE(Path(path).stat().st_mode) & 0o077 == 0
