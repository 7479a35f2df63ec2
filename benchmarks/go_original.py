"""The Go original at the same work: github.com/grailbio/bigmachine v0.5.8, by the program in `go/`.

It is built into a temporary folder by the ordinary Go client; where there is no Go or no module, that is what its
column says. Its processes are not pinned: both ends are free to use every core. Its "async" is a goroutine a call.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import measure
from measure import Options, Row, Stat
from memory import five
from program import Program

_SOURCE = Path(__file__).with_name("go")
_BUILD_TIMEOUT = 300
_RUN_TIMEOUT = 120
_UNITS = {"array": "B/s", "bytes": "B/s", "64": "/s", "1000": "/s", "driver,": "B"}


class NotHere(Exception):
    """The Go original cannot be measured; the text says why."""


@contextmanager
def built() -> Iterator[str]:
    """Build the program for as long as it is needed; gives its path.

    Raises: NotHere.
    """
    if shutil.which("go") is None:
        raise NotHere("no Go toolchain here")
    with tempfile.TemporaryDirectory(prefix="bigmachine-go-") as folder:
        binary = str(Path(folder) / "original")
        try:
            done = subprocess.run(
                ["go", "build", "-buildvcs=false", "-o", binary, "."],
                check=False,  # why it failed is told below
                cwd=_SOURCE,
                timeout=_BUILD_TIMEOUT,
                capture_output=True,
                text=True,
            )
        except subprocess.TimeoutExpired:
            raise NotHere(f"go build did not end within {_BUILD_TIMEOUT} s") from None
        if done.returncode:
            raise NotHere(f"go build failed: {done.stderr.strip().splitlines()[-1]}")
        yield binary


def measured(options: Options) -> dict[str, Stat]:
    """Measure it; the names are those of the rows that it stands beside.

    Raises: NotHere.
    """
    with built() as binary:
        said = _output(binary, f"-scale={options.pick(1, 4)}")
        samples = {made["name"]: made["samples"] for made in map(json.loads, said.splitlines())}
        start = (binary, "-figure=start", "-machines=5")
        programs = []
        for _ in range(options.pick(1, 3)):
            program = Program(*start)
            programs.append((program.ready_after, program.end()))
        samples["start to first results"], samples["clean shutdown"] = zip(*programs, strict=True)
        samples["driver, agent, zygote, five idle machines"] = [five(start)[0]]
    return {name: Stat.of(taken) for name, taken in samples.items()}


def _output(*command: str) -> str:
    process = subprocess.Popen(command, process_group=0, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        said, _ = process.communicate(timeout=_RUN_TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its machines would live on for five minutes
        process.communicate()
        raise NotHere(f"it did not end within {_RUN_TIMEOUT} s") from None
    if process.returncode:
        raise NotHere(f"it ended with status {process.returncode}")
    return said


def figures(options: Options) -> list[Row]:
    return [Row(name, _UNITS.get(name.split(" ")[0], "s"), stat) for name, stat in measured(options).items()]


if __name__ == "__main__":
    try:
        measure.run(figures)
    except NotHere as exc:
        print(f"the Go original was not measured: {exc}")
