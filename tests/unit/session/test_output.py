"""A session's output goes where it was told, and nothing that holds it up holds up machines, for a while at most."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import bigmachine
from bigmachine import Keepalive, Machine, OutputLine, State
from bigmachine.agent import Output
from bigmachine.errors import InvalidCall
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


def writes(system: InprocessSystem, machine: Machine, data: bytes, times: int = 1) -> None:
    """Let a machine have written something."""
    assert system._ticket is not None
    for _ in range(times):
        make = partial(Output, machine_id=machine.machine_id, at=0.0, stream="stdout", data=data)
        system._ticket.reactor.post(system.feed.put, make)


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
    eventually(lambda: "m1: hello\n" in terminal.getvalue(), "the output is lost")


def test_a_function_may_use_the_machines_and_even_end_the_session() -> None:
    """It runs on the output's thread: waiting for output there would wait for itself."""
    system = InprocessSystem()
    lines: list[str] = []

    def function(line: OutputLine) -> None:
        lines.append(f"{line.machine} {line.stream} {line.text} {machine.call(Echo.same, 7)}")
        session.shutdown()

    session = bigmachine.start(system, output=function)
    try:
        (machine,) = session.start(services=[Echo()])
        machine.wait(State.RUNNING, 10)
        begin = time.monotonic()
        writes(system, machine, b"hello\n")
        eventually(lambda: machine.state is State.STOPPED, "the session does not end")
        session.shutdown()
        assert time.monotonic() - begin < 5
        assert lines == ["m1 stdout hello 7"]
    finally:
        session.shutdown()


def test_output_that_is_off_is_not_shown(use_terminal: UseTerminal) -> None:
    terminal = use_terminal()
    system = InprocessSystem()
    with bigmachine.start(system, output="off") as session:
        (machine,) = session.start(services=[Echo()])
        machine.wait(State.RUNNING, 10)
        writes(system, machine, b"hello\n")
        machine.shutdown()
    assert terminal.getvalue() == ""


def test_a_folder_gets_a_file_for_each_machine(tmp_path: Path) -> None:
    system = InprocessSystem()
    with bigmachine.start(system, name="big", output=tmp_path) as session:
        machines = session.start(2, services=[Echo()])
        for machine in machines:
            machine.wait(State.RUNNING, 10)
            writes(system, machine, f"I am {machine.name}\nno end".encode())
    assert (tmp_path / "big-m1.log").read_text() == "I am m1\nno end\n"
    assert (tmp_path / "big-m2.log").read_text() == "I am m2\nno end\n"


def test_what_the_program_says_goes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_terminal: UseTerminal
) -> None:
    monkeypatch.setenv("BIGMACHINE_OUTPUT", f"files:{tmp_path}/logs")
    terminal = use_terminal()
    for output in (None, "stream"):
        system = InprocessSystem()
        with bigmachine.start(system, output=output) as session:
            (machine,) = session.start(services=[Echo()])
            machine.wait(State.RUNNING, 10)
            writes(system, machine, f"output={output}\n".encode())
    assert (tmp_path / "logs/m1.log").read_text() == "output=None\n"
    assert terminal.getvalue() == "m1: output=stream\n"


def test_a_wrong_output_is_refused_before_anything_starts(tmp_path: Path) -> None:
    system = InprocessSystem()
    with pytest.raises(InvalidCall, match="output='strem' is not allowed"):
        bigmachine.start(system, output="strem")
    with pytest.raises(InvalidCall, match="events cannot be written to"):
        bigmachine.start(system, events=tmp_path / "no/folder")
    bigmachine.start(system).shutdown()  # it was not taken
