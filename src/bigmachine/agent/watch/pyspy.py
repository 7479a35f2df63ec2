"""Look into a machine's process from outside, by py-spy: an agent may, because it is the parent.

py-spy is a program of its own (it ships as a wheel); it works on a process that holds the GIL, is deadlocked or is
stopped, and costs the process nothing of its own time to load. It runs under the agent's reaper like any child.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final
from weakref import WeakKeyDictionary

from bigmachine.agent.processes.apart import start_apart
from bigmachine.agent.processes.tree import kill_group
from bigmachine.agent.watch.samplers import Samplers
from bigmachine.errors import BigmachineError
from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from bigmachine.agent.processes.reaper import Reaper

#: py-spy's usual rate; measured to cost under 1 %.
_RATE: Final = 100
#: It manages so many samples a second of most processes.
FASTEST: Final = 1000
#: Beyond the time that it was asked to take.
_PATIENCE: Final = 10.0
#: Where py-spy has the file for its result.
_RESULT: Final = 3
#: So many bytes of stacks are told; a program that recurses deeply in many ways makes more.
_MOST: Final = 32 * 1024 * 1024
#: For a process that is about to be killed.
_HASTE: Final = 2.0


class TraceRefused(BigmachineError):
    """This host does not let py-spy look into the machine (fault: its rules on ptrace); or there is no py-spy."""


@frozen
class Sampling:
    """How a process is sampled: `hertz` times a second; with frames in C; only who holds the GIL; also who waits.

    `nonblocking`: do not stop the process for each sample; some stacks are then torn, and left out. That is the default
    because it is as exact and disturbs less: stopped threads have to be scheduled again, so on a busy host a thread
    that only waits for its next event was seen as running in a third of the samples (without: in 6 %).
    """

    hertz: int = _RATE
    native: bool = False
    gil: bool = False
    idle: bool = False
    nonblocking: bool = True

    def options(self) -> list[str]:
        """Give py-spy's options for it."""
        switches = ("native", "gil", "idle", "nonblocking")
        return ["--rate", str(self.hertz), *(f"--{name}" for name in switches if getattr(self, name))]


#: Those at work on one host: it has one reaper.
_samplers: WeakKeyDictionary[Reaper, Samplers] = WeakKeyDictionary()


async def record(reaper: Reaper, pid: int, seconds: float, sampling: Sampling | None = None) -> bytes:
    """Sample a process for `seconds`: folded stacks, one a line, each with its count.

    Where many are sampled at once it is done less often; the first line then says how often (see `profile.rate_of`).

    Raises:
        TraceRefused: if py-spy is not there, or may not.
        BigmachineError: if it fails otherwise; with its own words.
    """
    whole = max(1, round(seconds))  # py-spy takes whole seconds
    wanted = sampling or Sampling()
    async with _samplers_of(reaper).one(wanted.hertz) as hertz:
        options = ["record", "--pid", str(pid), "--duration", str(whole), "--format", "raw"]
        options += replace(wanted, hertz=hertz).options()
        folded = await _run(reaper, [*options, "--threads", "--full-filenames"], whole + _PATIENCE, output="--output")
    if hertz != wanted.hertz:
        from bigmachine.observe.profile import rate_line

        folded = rate_line(hertz).encode() + folded
    return shortened(folded)


def _samplers_of(reaper: Reaper) -> Samplers:
    found = _samplers.get(reaper)
    if found is None:
        found = _samplers[reaper] = Samplers()
    return found


def shortened(folded: bytes, most: int = _MOST) -> bytes:
    """Cut folded stacks that have more than `most` bytes: the samples of the rest are counted under one frame."""
    if len(folded) <= most:
        return folded
    from bigmachine.observe.profile import TRUNCATED

    kept, _, rest = folded[:most].rpartition(b"\n")
    counts = (line.rpartition(b" ")[2] for line in (rest + folded[most:]).splitlines())
    lost = sum(int(count) for count in counts if count.isdigit())
    return b"%s\n%s %d\n" % (kept, TRUNCATED.function.encode(), lost)


async def dump(reaper: Reaper, pid: int) -> bytes:
    """Give the stacks of all threads as text.

    Raises:
        BigmachineError: as `record`.
    """
    return await _run(reaper, ["dump", "--pid", str(pid)], _PATIENCE, output=None)


async def dump_from_outside(reaper: Reaper, pid: int) -> bytes:
    """Give the stacks of all threads as JSON, also of a process that stands still.

    Raises:
        BigmachineError: as `record`.
    """
    return await _run(reaper, ["dump", "--nonblocking", "--json", "--pid", str(pid)], _PATIENCE, output=None)


async def dump_hung(reaper: Reaper, pid: int) -> str:
    """Give the stacks of a process that stands still; empty if that cannot be had soon."""
    try:
        # Nonblocking: py-spy would wait for a process that is stopped already to stop.
        return (await _run(reaper, ["dump", "--nonblocking", "--pid", str(pid)], _HASTE, output=None)).decode()
    except (BigmachineError, OSError):
        return ""


async def holds_interpreter(reaper: Reaper, pid: int) -> bool:
    """Tell whether a thread of a process that stands still holds the GIL; False if that cannot be found out."""
    try:
        threads = json.loads(await _run(reaper, ["dump", "--nonblocking", "--json", "--pid", str(pid)], _HASTE, None))
        return any(thread["owns_gil"] for thread in threads)
    except (BigmachineError, OSError, ValueError, LookupError, TypeError):
        return False


async def _run(reaper: Reaper, arguments: list[str], limit: float, output: str | None) -> bytes:
    # Files without a name: nothing stays, however the agent ends.
    with tempfile.TemporaryFile() as result, tempfile.TemporaryFile() as said:
        if output is not None:
            arguments = [*arguments, output, f"/dev/fd/{_RESULT}"]
        async with _samplers_of(reaper).start():
            with reaper.expecting():
                files = (result, said) if output is None else (said, said, result)
                pid = start_apart([program(), *arguments], *(file.fileno() for file in files))
                ending = reaper.watch(pid)
        try:
            async with asyncio.timeout(limit):
                status = (await asyncio.shield(ending)).status
        except TimeoutError as error:
            raise BigmachineError(f"py-spy {arguments[0]} was not done after {limit:.0f} s") from error
        finally:
            if not ending.done():
                kill_group(pid)
        return _outcome(arguments[0], status, result, said)


def _outcome(command: str, status: int, result: BinaryIO, said: BinaryIO) -> bytes:
    if status != 0:
        said.seek(0)
        words = said.read().decode(errors="replace").strip()
        refused = "ermission" in words or "not permitted" in words
        kind, remedy = (TraceRefused, ": this host must allow ptrace") if refused else (BigmachineError, "")
        raise kind(f"py-spy {command} failed ({words or status}){remedy}")
    result.seek(0)
    return result.read()


def program() -> str:
    """Find py-spy.

    Raises:
        TraceRefused: if it is not there.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise TraceRefused("py-spy is not installed on this host: install the package py-spy to profile machines")
    return found


__all__ = [
    "FASTEST",
    "Sampling",
    "TraceRefused",
    "dump",
    "dump_from_outside",
    "dump_hung",
    "holds_interpreter",
    "program",
    "record",
    "shortened",
]
