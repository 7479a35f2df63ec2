"""Ctrl-C at the terminal ends a program as it ends any other: one traceback, and nothing is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.processes import below, wait_for, wait_until_gone
from tests.cluster.programs import IMPORTABLE, Running, StartProgram, WriteProgram
from tests.cluster.terminal import plain

CTRL_C = b"\x03"
AT_ONCE = 1.0

DRIVER = """
import asyncio, fcntl, os, sys, termios, time
import bigmachine
from tests.cluster.fault_services import SlowInit, Target

def work(mode, session, machines):
    if mode == "call":
        machines[0].call(Target.nap, 60)
    elif mode == "plain call":
        machines[0].call(Target.doze, 60)
    elif mode == "await":
        async def wait():
            print("ready", flush=True)
            await asyncio.gather(*(machine.submit(Target.nap, 60) for machine in machines))
        asyncio.run(wait())
    elif mode == "stream":
        for _ in machines[0].call(Target.count):
            pass
    elif mode == "wait":
        session.start(1, services=[SlowInit(60)])[0].wait()
    elif mode == "shutdown":
        machines[0].call(Target.cling, 60)
    elif mode == "interrupt in a machine":
        machines[0].call("Target.chatter_slowly")

if __name__ == "__main__":
    if bigmachine.is_driver():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    with bigmachine.start("local") as session:
        machines = session.start(2, services=[Target()])
        for machine in machines:
            machine.call(Target.say, "it is up")
        time.sleep(0.1)
        print("ready", flush=True)
        work(sys.argv[1], session, machines)
"""


class Terminal:
    """A terminal, and all that was written to it."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self._text = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                return  # nobody has it open any more
            if not piece:
                return
            self._text += piece

    @property
    def text(self) -> str:
        """What was written, without colours."""
        return plain(self._text.decode().replace("\r\n", "\n"))

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.master, keys)

    def close(self) -> None:
        """Let go of it, when all that used it is gone."""
        os.close(self.slave)
        self._reader.join(2)
        os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    it = Terminal()
    yield it
    it.close()


@pytest.fixture
def start_driver(start_program: StartProgram, write: WriteProgram, terminal: Terminal) -> Callable[[str], Running]:
    """Start a driver at a terminal, and wait until it is at work."""

    def start(mode: str) -> Running:
        environ = {"PYTHONPATH": f"{IMPORTABLE}:{Path(__file__).parents[2]}"}
        path = write("drive.py", DRIVER)
        running = start_program(path, mode, stdin=terminal.slave, terminal=terminal.slave, environ=environ)
        wait_for(lambda: "ready" in terminal.text or running.process.poll() is not None, "the driver is at work")
        assert running.process.poll() is None, terminal.text
        time.sleep(0.1)  # from "ready" to the call itself
        return running

    return start


@pytest.mark.parametrize("mode", ["call", "plain call", "await", "stream", "wait"])
def test_ctrl_c_ends_the_program_with_one_traceback_and_nothing_is_left(
    start_driver: Callable[[str], Running], terminal: Terminal, mode: str
) -> None:
    running = start_driver(mode)
    pids = below(running.process.pid)
    terminal.type(CTRL_C)
    begin = time.monotonic()
    assert running.process.wait(10) == -signal.SIGINT
    assert time.monotonic() - begin < AT_ONCE
    wait_until_gone(pids, AT_ONCE)
    text = terminal.text
    assert text.count("m1: it is up") == text.count("m2: it is up") == 1
    lines = text.split("ready\n")[-1].removeprefix("^C").splitlines()
    assert lines[-1] == "KeyboardInterrupt"
    if mode == "await":  # which asyncio ends in two steps
        lines = lines[lines.index("During handling of the above exception, another exception occurred:") + 2 :]
    assert lines[0] == "Traceback (most recent call last):"
    assert [line for line in lines[1:-1] if not line.startswith(" ")] == []
    assert text.count("\nKeyboardInterrupt\n") == 1


def test_a_second_ctrl_c_ends_a_shutdown_that_takes_long(
    start_driver: Callable[[str], Running], terminal: Terminal
) -> None:
    running = start_driver("shutdown")
    pids = below(running.process.pid)
    time.sleep(0.2)
    assert running.process.poll() is None  # one machine clings to its life
    terminal.type(CTRL_C)
    begin = time.monotonic()
    assert running.process.wait(10) == -signal.SIGINT
    assert time.monotonic() - begin < AT_ONCE
    wait_until_gone(pids, AT_ONCE)
    assert terminal.text.count("KeyboardInterrupt") == 1
