"""Programs as users run them: an interpreter with arguments, bounded in time, whose processes can be found again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import pytest

import bigmachine

#: In the environment of each process of a program, since machines inherit it from the agent, which has the driver's.
MARK = "TEST_RUN_OF_A_PROGRAM"
#: What imports bigmachine here has to do so in the programs, wherever they run.
IMPORTABLE = str(Path(bigmachine.__file__).parents[1])
#: An agent without its driver is gone within a second; twice that on a busy computer.
UNTIL_GONE = 2.0


@dataclass(frozen=True)
class Outcome:
    """What came of a program."""

    status: int
    out: str
    err: str


class RunProgram(Protocol):
    """Run `python *arguments` to its end, and see that no process of it is left.

    `status` is what it has to exit with (None: anything), `executable` what to run in Python's place.
    """

    def __call__(
        self,
        *arguments: str | Path,
        status: int | None = 0,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
        stdin: str = "",
        executable: str | Path = sys.executable,
        timeout: float = 30.0,
    ) -> Outcome: ...


class Running:
    """A program that was started; its output goes to files, which no leftover process can hold up."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str, out: IO[bytes], err: IO[bytes]) -> None:
        self.process = process
        self.mark = mark
        self._out = out
        self._err = err

    def wait(self, timeout: float = 30.0) -> Outcome:
        """Wait for its end; fail, with the stacks of its threads, if it takes longer than `timeout`."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler shows the stacks
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2.0)
            outcome = self._outcome(-1)
            pytest.fail(f"the program took longer than {timeout:g} s\n{outcome.out}\n{outcome.err}")
        return self._outcome(status)

    def _outcome(self, status: int) -> Outcome:
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        return Outcome(status, *texts)

    def left(self) -> dict[int, str]:
        """Return the processes of the program that are there: their commands by their ids."""
        return processes(self.mark)


class StartProgram(Protocol):
    """Start `python *arguments` and return it while it runs."""

    def __call__(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
        stdin: str | int = "",
        terminal: int | None = None,
        executable: str | Path = sys.executable,
    ) -> Running: ...


def processes(mark: str) -> dict[int, str]:
    """Find the processes that have this mark in their environment; zombies show none."""
    found: dict[int, str] = {}
    wanted = f"{MARK}={mark}".encode()
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (place / "environ").read_bytes().split(b"\0"):
                    found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]
    return found


def assert_gone(mark: str) -> None:
    """Wait until no process has the mark; fail if one stays."""
    end = time.monotonic() + UNTIL_GONE
    while left := processes(mark):
        if time.monotonic() > end:
            pytest.fail(f"{len(left)} processes of the program are left after {UNTIL_GONE:g} s: {left}")
        time.sleep(0.01)


def kill_left(mark: str) -> None:
    """Kill whatever has the mark: a failed test must not disturb the next one."""
    for pid in processes(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def program_environment(mark: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Make the environment of a program: this one's, without what a test runner or a user's settings would change."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("BIGMACHINE_", "PYTEST_"))}
    path = os.pathsep.join([IMPORTABLE, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**ours, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1", MARK: mark, **(more or {})}


#: Writes a program's file, by its path below the test's own folder, and returns where it is.
WriteProgram = Callable[[str, str], Path]
