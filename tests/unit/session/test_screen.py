"""Output goes to standard error in order, and a standard error that stands still stops nothing else."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from bigmachine import Keepalive, Machine, State
from bigmachine.agent import Output
from bigmachine.session.screen import Screen
from bigmachine.systems.inprocess import InprocessSystem
from tests.unit.inside import Echo, eventually, inside

UseTerminal = Callable[[], "Terminal"]


class Terminal(io.StringIO):
    """Standard error that can be stopped, as by Ctrl-S."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.waiting = threading.Event()

    def write(self, text: str) -> int:
        if not self.goes_on.is_set():
            self.waiting.set()
        assert self.goes_on.wait(10)
        return super().write(text)


@pytest.fixture
def use_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[UseTerminal]:
    """Make standard error a terminal; in the test itself, because pytest sets its own after each fixture."""
    terminal = Terminal()

    def use() -> Terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        return terminal

    yield use
    terminal.goes_on.set()


@pytest.fixture
def screen() -> Iterator[Screen]:
    screen = Screen()
    yield screen
    screen.close(10)
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "bigmachine-output"], "its thread is left")


def test_texts_are_written_in_order(screen: Screen, use_terminal: UseTerminal) -> None:
    terminal = use_terminal()
    for number in range(100):
        screen.write(f"{number}\n")
    assert screen.flush(10)
    assert terminal.getvalue() == "".join(f"{number}\n" for number in range(100))


def test_it_writes_to_standard_error_as_that_is_at_the_time(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        screen.write("hello\n")
        assert screen.flush(10)
        assert stream.getvalue() == "hello\n"


def test_a_missing_or_closed_standard_error_does_no_harm(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        screen.write("hello\n")
        assert screen.flush(10)


def test_writing_does_not_wait_and_too_much_is_noticed(screen: Screen, use_terminal: UseTerminal) -> None:
    terminal = use_terminal()
    terminal.goes_on.clear()
    begin = time.monotonic()
    for _ in range(3):
        screen.write("x" * 500_000)
    assert time.monotonic() - begin < 5
    assert screen.is_crowded
    assert not screen.flush(0.01)
    terminal.goes_on.set()
    assert screen.flush(10)
    assert not screen.is_crowded
    assert len(terminal.getvalue()) == 1_500_000


def test_closing_writes_what_waits_but_not_for_longer_than_asked(use_terminal: UseTerminal) -> None:
    terminal = use_terminal()
    screen = Screen()
    terminal.goes_on.clear()
    screen.write("late\n")
    begin = time.monotonic()
    screen.close(0.05)
    assert 0.05 <= time.monotonic() - begin < 5
    screen.write("too late\n")
    terminal.goes_on.set()
    eventually(lambda: terminal.getvalue() == "late\n", "what waited is lost")
    screen.close(10)


def test_one_that_was_never_used_has_no_thread(screen: Screen) -> None:
    assert screen.flush(0)
    screen.close(0)
    assert screen._thread is None


def test_a_terminal_that_stands_still_stops_no_machine(use_terminal: UseTerminal) -> None:
    """Ctrl-S used to end them: the event loop wrote to the terminal, and sent no keepalive meanwhile."""
    terminal = use_terminal()
    system = InprocessSystem(keepalive=Keepalive(interval=0.02, timeout=5.0, lease=0.2))
    with inside(system) as (_, session):
        (machine,) = session.start(services=[Echo()])
        machine.wait(State.RUNNING, 10)
        terminal.goes_on.clear()
        writes(system, machine, b"x" * 100_000 + b"\n", times=20)
        assert terminal.waiting.wait(10)
        end = time.monotonic() + 0.3  # more than its lease
        while time.monotonic() < end:
            assert machine.call(Echo.same, 1) == 1
        assert machine.state is State.RUNNING
        assert system.feed._events, "the agent does not keep what is not shown"
        terminal.goes_on.set()
        machine.shutdown()
        assert terminal.getvalue().count("m1: ") == 20
        eventually(lambda: not system.feed._events, "what is shown is not acknowledged")


def test_a_terminal_that_stands_still_holds_the_end_up_only_for_a_while(
    use_terminal: UseTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = use_terminal()
    monkeypatch.setattr("bigmachine.session.session._SHOWING", 0.05)
    system = InprocessSystem()
    with inside(system) as (_, session):
        (machine,) = session.start(services=[Echo()])
        machine.wait(State.RUNNING, 10)
        terminal.goes_on.clear()
        writes(system, machine, b"hello\n")
        assert terminal.waiting.wait(10)
        begin = time.monotonic()
        session.shutdown()
        assert time.monotonic() - begin < 5
        assert machine.state is State.STOPPED
        terminal.goes_on.set()
    eventually(lambda: terminal.getvalue() == "m1: hello\n", "the output is lost")


def writes(system: InprocessSystem, machine: Machine, data: bytes, times: int = 1) -> None:
    """Let a machine have written something."""
    assert system._ticket is not None
    for _ in range(times):
        make = partial(Output, machine_id=machine.machine_id, at=0.0, stream="stdout", data=data)
        system._ticket.reactor.post(system.feed.put, make)
