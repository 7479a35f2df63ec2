"""Looking at many real machines at once: the profile of 64, the dashboard of 200.

All are processes on this computer, which has to carry the machines, and what samples them, as well as the driver: their
agent therefore samples each less often than it would alone (see `agent/watch/samplers.py`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import measure
import psutil
from measure import Goal, Options, Row, Stat

import bigmachine
from bigmachine.observe import pprof

_PROFILED, _SHOWN = 64, 200
_AT_ONCE = 20
_SOON = Goal("median", 3.0)
#: Reads the dashboard's stream for so many seconds, and prints how many bytes came after the first second.
_VIEWER = """
import sys, time, urllib.request
url, seconds = sys.argv[1], float(sys.argv[2])
base, _, token = url.partition("?token=")
asked = urllib.request.Request(base + "events", headers={"Authorization": "Bearer " + token})
count, changes, begin = 0, 0, time.monotonic()
with urllib.request.urlopen(asked, timeout=30) as stream:
    while (now := time.monotonic()) < begin + 1 + seconds:
        data = stream.read1(1 << 16)
        if now > begin + 1:
            count += len(data)
            changes += data.count(b"event: change")
print(count, changes)
"""


class Work:
    """Something to be seen: a little work now and then, and a line about it."""

    def some(self, seconds: float, share: float) -> None:
        """Work for this share of the time."""
        call, end = bigmachine.current_call(), time.monotonic() + seconds
        while time.monotonic() < end and not call.cancelled():
            begin = time.thread_time()
            while time.thread_time() - begin < 0.01:
                self.outer(6)
            time.sleep(0.01 / share)

    def outer(self, depth: int) -> int:
        return self.inner(depth - 1) + sum(range(50)) if depth else 0

    def inner(self, depth: int) -> int:
        return self.outer(depth - 1) + sum(range(100)) if depth else 0

    def say(self, number: int) -> int:
        print(f"step {number}: a line as programs write them, of about seventy characters", flush=True)
        return number


def figures(options: Options) -> list[Row]:
    return [*_profile(options), *_dashboard(options)]


def _profile(options: Options) -> list[Row]:
    seconds = options.pick(5, 30)
    after: list[float] = []
    beyond: list[float] = []
    note = ""
    with bigmachine.start("local", output="off") as session, tempfile.TemporaryDirectory() as folder:
        machines = session.start(_PROFILED, services=[Work()])
        for machine in machines:
            machine.wait()
        calls = [machine.submit(Work.some, 600.0, 0.01) for machine in machines]
        for _ in range(options.pick(1, 2)):
            samplers = _Samplers(seconds)
            begin = time.monotonic()
            collected = session.collect_profile("cpu", seconds=seconds)
            Path(folder, "cpu.pb.gz").write_bytes(pprof.encode(collected.profile))
            written = time.monotonic()
            after.append(max(0.0, written - samplers.ended()))
            beyond.append(written - begin - seconds)
            note = (
                f"{len(collected.taken)} of {_PROFILED} answered, {collected.profile.total(0)} samples in "
                f"{len(collected.profile.samples)} stacks; {'; '.join(collected.profile.comments)[:150]}"
            )
            if collected.missing:
                raise SystemExit(f"missing: {collected.missing}")
        for call in calls:
            call.cancel()
    name = f"{_PROFILED} real machines' profile of {seconds} s written"
    return [
        Row(f"{name}, after the last sample", "s", Stat.of(after), goals=(_SOON,), note=note),
        Row(f"{name}, beyond these seconds", "s", Stat.of(beyond)),
    ]


class _Samplers:
    """Notes when the last process that samples has ended."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def ended(self) -> float:
        self._thread.join()
        return self._last

    def _watch(self) -> None:
        time.sleep(0.8 * self._seconds)
        found = [each.pid for each in psutil.Process().children(recursive=True) if each.name().startswith("py-spy")]
        while any(map(_is_alive, found)):
            self._last = time.monotonic()
            time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _dashboard(options: Options) -> list[Row]:
    seconds = options.pick(6, 20)
    with bigmachine.start("local", output="off") as session:
        machines = []
        for _ in range(_SHOWN // _AT_ONCE):  # how soon all are up is another benchmark's figure
            machines += session.start(_AT_ONCE, services=[Work()])
            for machine in machines:
                machine.wait()
        url = session.serve_debug(port=0)
        stop = threading.Event()
        talk = threading.Thread(target=_talk, args=(machines, stop))
        talk.start()
        shares: dict[str, list[float]] = {"alone": [], "shown": []}
        rates: list[float] = []
        note = ""
        for _ in range(options.pick(1, 3)):
            shares["alone"].append(_share(lambda: time.sleep(seconds)))

            def look() -> None:
                nonlocal note
                told = subprocess.run(
                    [sys.executable, "-c", _VIEWER, url, str(seconds)], capture_output=True, text=True, check=True
                )
                count, changes = map(int, told.stdout.split())
                rates.append(count / seconds)
                note = (
                    f"{changes} events in {seconds} s, {len(session.machines())} machines, 50 calls and lines a second"
                )

            shares["shown"].append(_share(look))
        stop.set()
        talk.join()
    cost = [shown - alone for shown, alone in zip(shares["shown"], shares["alone"], strict=True)]
    return [
        Row(f"the dashboard of {_SHOWN} machines: of a core", "x", Stat.of(cost), goals=(Goal("median", 0.05),)),
        Row("the same: sent to a viewer in a second", "B", Stat.of(rates), goals=(Goal("median", 50e3),), note=note),
    ]


def _share(look: Callable[[], object]) -> float:
    """Give which part of a core this process uses meanwhile."""
    begin, spent = time.monotonic(), time.process_time()
    look()
    return (time.process_time() - spent) / (time.monotonic() - begin)


def _talk(machines: list[bigmachine.Machine], stop: threading.Event) -> None:
    number = 0
    while not stop.wait(0.02):
        machines[number % len(machines)].submit(Work.say, number)
        number += 1


if __name__ == "__main__":
    measure.run(figures)
