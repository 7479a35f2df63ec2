"""A person debugs machines: breakpoint() at the driver's terminal and from elsewhere, attach, shells, an editor."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.processes import wait_for
from tests.cluster.programs import Outcome, Running, RunProgram, StartProgram, WriteProgram, assert_gone
from tests.cluster.talks import Terminal, command

PROGRAM = """
import asyncio, sys, time
import bigmachine
from bigmachine import Keepalive
from bigmachine.systems.local import LocalSystem

class Work:
    def plain(self, n):
        found = n * 2
        breakpoint()
        return found + 1

    async def coroutine(self, n):
        found = n * 3
        breakpoint()
        await asyncio.sleep(0)
        return found + 1

    def spin(self, _):
        end = time.monotonic() + 30
        while time.monotonic() < end and not getattr(self, "stop", False):
            pass
        return "spun"

    async def turn(self, _):
        end = time.monotonic() + 30
        turns = 0
        while time.monotonic() < end and not getattr(self, "stop", False):
            turns += 1
        return "turned"

    def quick(self):
        return "quick"

def main():
    system = LocalSystem(keepalive=Keepalive(interval=0.3, timeout=6.0, lease=6.0, hang=1.0))
    with bigmachine.start(system, name="debugged") as session:
        machines = session.start(2, services=[Work()])
        for machine in machines:
            machine.wait()
        {body}

if __name__ == "__main__":
    main()
"""
#: Starts calls of the first argument's kind, says their results, and lives until it is told to end.
CALLS = """
        calls = [machine.submit("Work." + word, 5) for machine, word in zip(machines, sys.argv[1:])]
        print("ready", flush=True)
        for call in calls:
            print("result", call.result(), flush=True)
        print("all", flush=True)
        time.sleep(60 if calls else 0)
"""


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """The environment of programs and commands that see only each other."""
    return {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}


@pytest.fixture
def program(write: WriteProgram) -> Callable[[str], Path]:
    return lambda body: write("program.py", PROGRAM.replace("{body}", body.strip()))


@pytest.fixture
def terminal(start_program: StartProgram, place: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """Open terminals."""
    with contextlib.ExitStack() as open_ones:

        def start(*arguments: str | Path) -> Terminal:
            opened = Terminal(start_program, *arguments, environ=place)
            open_ones.callback(opened.close)
            return opened

        yield start


class Driver:
    """A driver without a terminal, and commands to it."""

    def __init__(
        self, start: StartProgram, run: RunProgram, place: dict[str, str], path: Path, *words: str, **environ: str
    ) -> None:
        self._run = run
        self._place = place
        self.program: Running = start(path, *words, environ={**place, **environ})
        self.wait_for("ready")

    def said(self) -> str:
        return "".join(_read(file) for file in (self.program._out, self.program._err))

    def wait_for(self, text: str, limit: float = 20.0) -> str:
        end = time.monotonic() + limit
        while not re.search(text, said := self.said()):
            assert self.program.process.poll() is None, said
            assert time.monotonic() < end, f"after {limit:g} s there is no {text!r}:\n{said}"
            time.sleep(0.02)
        return said

    def run(self, *words: str, typed: str = "", status: int | None = 0) -> Outcome:
        return self._run(*command(*words), environ=self._place, stdin=typed, status=status)


def _read(file: Any) -> str:
    return os.pread(file.fileno(), 1 << 20, 0).decode("utf-8", "replace")


@pytest.fixture
def driver(
    start_program: StartProgram, run_program: RunProgram, place: dict[str, str], program: Callable[[str], Path]
) -> Iterator[Callable[..., Driver]]:
    """Start drivers, which are killed in the end."""
    drivers: list[Driver] = []

    def start(*words: str, **environ: str) -> Driver:
        drivers.append(Driver(start_program, run_program, place, program(CALLS), *words, **environ))
        return drivers[-1]

    yield start
    for each in drivers:
        each.program.process.kill()


# a breakpoint in a service


@pytest.mark.parametrize(("method", "value"), [("plain", 10), ("coroutine", 15)])
def test_a_breakpoint_opens_at_the_drivers_terminal(
    terminal: Callable[..., Terminal], program: Callable[[str], Path], method: str, value: int
) -> None:
    shown = terminal(program(CALLS), method)
    text = shown.expect(r"\(Pdb\) ")
    assert re.search(r"machine m1 waits in breakpoint\(\) at \S+program\.py:\d+: bigmachine pdb m1", text)
    shown.type("found\n")
    shown.expect(rf"{value}\n\(Pdb\) ")
    time.sleep(2.5)  # more than twice what a machine that hangs has
    shown.type("found = 100\n")
    shown.expect(r"\(Pdb\) ")
    shown.type("c\n")
    shown.expect("result 101")
    wait_for(shown.takes_signals, "Ctrl-C is the program's again")
    shown.type("\x03")
    assert shown.wait() != 0


def test_two_machines_have_the_terminal_one_after_the_other(
    terminal: Callable[..., Terminal], program: Callable[[str], Path]
) -> None:
    shown = terminal(program(CALLS), "plain", "coroutine")
    text = ""  # a result may come before the other machine's prompt, or after it
    for _ in range(2):
        text += shown.expect(r"\(Pdb\) ")
        shown.type("print('at', found)\n")
        text += shown.expect(r"at 1[05]\n\(Pdb\) ")
        shown.type("q\n")
    text += shown.expect("all")
    assert "result 11" in text
    assert "result 16" in text
    shown.program.process.kill()


def test_no_prompt_opens_while_the_program_reads_from_the_terminal(
    terminal: Callable[..., Terminal], program: Callable[[str], Path]
) -> None:
    body = 'call = machines[0].submit("Work.plain", 5)\n        print("got", input("name? "))\n        call.result()'
    shown = terminal(program(body))
    shown.expect(r"waits in breakpoint\(\)")
    time.sleep(1.0)
    shown.type("Ada\n")
    text = shown.expect(r"\(Pdb\) ")  # now that it is free
    assert text.index("got Ada") < text.index("(Pdb)")
    shown.type("c\n")
    assert shown.wait() == 0


def test_what_is_open_at_the_drivers_terminal_is_given_to_who_comes_from_another(
    terminal: Callable[..., Terminal], program: Callable[[str], Path]
) -> None:
    shown = terminal(program(CALLS), "plain")
    shown.expect(r"\(Pdb\) ")
    other = terminal(*command("pdb", "m1"))
    other.expect(r"\(Pdb\) ")
    shown.expect("goes on in another terminal")
    other.type("found\n")
    other.expect(r"10\n\(Pdb\) ")
    other.type("c\n")
    assert other.wait() == 0
    shown.expect("result 11")
    shown.program.process.kill()


def test_ctrl_c_at_the_drivers_prompt_interrupts_the_machine_and_twice_the_program(
    terminal: Callable[..., Terminal], program: Callable[[str], Path]
) -> None:
    shown = terminal(program(CALLS), "plain")
    shown.expect(r"\(Pdb\) ")
    shown.type("while True: pass\n")
    time.sleep(0.5)
    shown.type("\x03")
    shown.expect(r"KeyboardInterrupt--\n\(Pdb\) ")
    time.sleep(1.2)
    shown.type("\x03\x03")
    shown.expect("KeyboardInterrupt")
    assert shown.wait() != 0
    assert shown.takes_signals()


@pytest.mark.parametrize("method", ["plain", "coroutine"])
def test_pdb_from_elsewhere_while_others_go_on(driver: Callable[..., Driver], method: str) -> None:
    there = driver(method)
    there.wait_for(r"waits in breakpoint\(\) at \S+program.py:\d+: bigmachine pdb m1")
    time.sleep(2.5)  # more than twice what a machine that hangs has
    assert "quick" in there.run("shell", "m2", "-c", "print(Work.quick())").out
    assert "quick" in there.run("shell", "m1", "-c", "print(Work.quick())").out
    outcome = there.run("pdb", typed="found = 7\nn\nc\n")
    assert "(Pdb)" in outcome.out
    there.wait_for("result 8")
    assert "no machine waits in breakpoint()" in there.run("pdb", status=3).err
    assert "2 running" in there.run("status").out


def test_who_leaves_lets_the_program_go_on(driver: Callable[..., Driver], terminal: Callable[..., Terminal]) -> None:
    there = driver("plain")
    person = terminal(*command("pdb", "m1"))
    person.expect(r"\(Pdb\) ")
    person.program.process.kill()
    there.wait_for("result 11")


def test_a_driver_that_is_killed_ends_its_halted_machines_and_tells_who_debugs(
    driver: Callable[..., Driver], terminal: Callable[..., Terminal]
) -> None:
    there = driver("coroutine")
    person = terminal(*command("pdb", "m1"))
    person.expect(r"\(Pdb\) ")
    there.program.process.kill()
    person.expect("the machine has ended, or its session")
    assert person.wait() == 1
    assert_gone(there.program.mark)


def test_nobody_comes_and_the_program_goes_on(driver: Callable[..., Driver]) -> None:
    there = driver("plain", BIGMACHINE_BREAKPOINT_WAIT="0.5")
    said = there.wait_for("result 11")
    assert "nobody came to the breakpoint()" in there.wait_for("nobody came")
    assert "waits in breakpoint()" in said


def test_a_deadline_releases_the_caller_of_a_halted_machine(
    start_program: StartProgram, run_program: RunProgram, place: dict[str, str], program: Callable[[str], Path]
) -> None:
    body = """
        for word in "plain", "coroutine":
            began = time.monotonic()
            try:
                with bigmachine.deadline(1.0):
                    machines[0].call("Work." + word, 5)
            except bigmachine.DeadlineExceeded:
                print("released", word, time.monotonic() - began < 5)
"""
    out = run_program(program(body), environ=place).out
    assert out.splitlines() == ["released plain True", "released coroutine True"]


def test_python_breakpoint_0_runs_through(driver: Callable[..., Driver]) -> None:
    there = driver("plain", PYTHONBREAKPOINT="0")
    assert "waits" not in there.wait_for("result 11")


# attach


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python's own debugger attaches there")
def test_attach_stops_a_coroutine_that_keeps_the_event_loop_busy(
    driver: Callable[..., Driver], terminal: Callable[..., Terminal]
) -> None:
    there = driver("turn")
    person = terminal(*command("attach", "m1"))
    shown = person.expect(r"\(Pdb\) ")
    assert "turn()" in shown
    person.type("turns > 0\n")
    person.expect(r"True\n\(Pdb\) ")
    person.type("self.stop = True\n")
    person.expect(r"\(Pdb\) ")
    person.type("c\n")
    assert person.wait() == 0
    there.wait_for("result turned")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python's own debugger attaches there")
def test_attach_asks_which_thread_and_looks_at_one_that_computes(
    driver: Callable[..., Driver], terminal: Callable[..., Terminal]
) -> None:
    there = driver("spin")
    person = terminal(*command("attach", "m1"))
    shown = person.expect(r"number of the thread to stop: ")
    number = re.search(r"(\d+) bigmachine-call\S*: .*in spin", shown)
    assert number is not None, shown
    person.type(f"{number[1]}\n")
    person.expect(r"\(Pdb\) ")
    person.type("self.stop = True\n")
    person.expect(r"\(Pdb\) ")
    person.type("q\n")
    assert person.wait() == 0
    there.wait_for("result spun")


def test_attach_stops_an_idle_machine_and_lets_it_go(
    driver: Callable[..., Driver], terminal: Callable[..., Terminal]
) -> None:
    there = driver("plain")
    person = terminal(*command("attach", "m2"))
    person.expect(r"\(Pdb\) ")
    time.sleep(2.0)  # its event loop stands still, which is not its hang
    person.type("\x04")
    assert person.wait() == 0
    assert "quick" in there.run("shell", "m2", "-c", "print(Work.quick())").out
