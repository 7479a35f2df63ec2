"""Profiles, stacks and heaps of real machines, collected and merged at the driver."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import bigmachine
from bigmachine import InvalidCall, Machine, Session
from bigmachine.errors import BigmachineError, DeadlineExceeded
from bigmachine.observe import pprof
from bigmachine.observe.profile import Profile
from bigmachine.session.seeing.collecting import Collected
from tests.cluster.processes import wait_for
from tests.cluster.programs import RunProgram, WriteProgram


class Work:
    """Things to be seen."""

    def __init__(self) -> None:
        self.kept: list[bytearray] = []
        self.lock: object = None

    def spin(self) -> None:
        call = bigmachine.current_call()
        while not call.cancelled():
            self.add_up()

    def add_up(self) -> int:
        return sum(range(2000))

    async def park(self, seconds: float) -> None:
        await self.deeper(seconds)

    async def deeper(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def keep(self, count: int) -> None:
        self.kept += [bytearray(100_000) for _ in range(count)]

    def keep_after(self, seconds: float) -> None:
        time.sleep(seconds)
        self.keep(50)

    def contend(self, seconds: float) -> None:
        lock = threading.Lock()
        thread = threading.Thread(target=self.hold, args=(lock, seconds))
        thread.start()
        while not lock.locked():
            time.sleep(0.001)
        with lock:
            thread.join()

    def hold(self, lock: threading.Lock, seconds: float) -> None:
        with lock:
            time.sleep(seconds)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with bigmachine.start("local") as session:
        for machine in session.start(2, services=[Work()]):
            machine.wait()
        yield session


def pid_of(machine: Machine) -> int:
    return int(machine.call("Supervisor.getpid"))


def by(profile: Profile, label: str, function: str = "", at: int = 0) -> Counter[str]:
    """Add up one measure by a label, of stacks in which a function is."""
    sums: Counter[str] = Counter()
    for (stack, labels), values in profile.samples.items():
        if not function or any(frame.function == function for frame in stack):
            sums[dict(labels).get(label, "")] += values[at]
    return sums


def test_the_cpu_of_all_machines_and_the_driver_is_sampled_and_told_apart(session: Session) -> None:
    stop = threading.Event()

    def spin_here() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin_here, name="spinner")
    thread.start()
    calls = [machine.submit(Work.spin) for machine in session.machines()]
    collected = session.collect_profile("cpu", seconds=1, driver=True)
    stop.set()
    thread.join()
    for call in calls:
        call.cancel()
    profile = collected.profile
    assert (sorted(collected.taken), collected.missing, profile.comments) == (["driver", "m1", "m2"], {}, [])
    samples = by(profile, "machine", "Work.add_up")
    assert set(samples) == {"m1", "m2"}
    assert min(samples.values()) > 30
    assert set(by(profile, "service", "Work.add_up")) == {"Work"}
    assert by(profile, "machine", f"{spin_here.__qualname__}")["driver"] > 10
    assert by(profile, "thread", f"{spin_here.__qualname__}")["spinner"] > 10
    assert profile.kinds == (("samples", "count"), ("cpu", "nanoseconds"))
    assert profile.total(1) == profile.total(0) * 10_000_000


def test_a_driver_that_is_killed_while_it_is_sampled_leaves_no_file(tmp_path: Path) -> None:
    sample = "from bigmachine.agent import pyspy; from bigmachine.session.seeing import own; print(1, flush=True); "
    sample += "own.sample(5, pyspy.Sampling())"
    with subprocess.Popen(
        [sys.executable, "-c", sample], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        time.sleep(1.5)  # py-spy has begun by then; if it has not, this shows less, but nothing false
        driver.kill()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go toolchain: its pprof is the judge here")
def test_go_reads_the_merged_profile(session: Session, tmp_path: Path) -> None:
    calls = [machine.submit(Work.spin) for machine in session.machines()]
    file = tmp_path / "cpu.pb.gz"
    file.write_bytes(session.profile("cpu", seconds=1))
    for call in calls:
        call.cancel()
    for options, expected in ((["-top", "-tagfocus=machine=m2"], "Work.add_up"), (["-tags"], "service: Total")):
        done = subprocess.run(
            ["go", "tool", "pprof", *options, str(file)], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_many_on_one_host_are_sampled_less_often_and_their_time_is_told_right(session: Session) -> None:
    machine = session.machines()[0]
    cpus = machine.load_info().cpus
    call = machine.submit(Work.spin)
    asked = 1 + max(1, round(cpus))  # so many at once are more than a host is to be burdened with
    found: list[Collected] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(session.collect_profile("cpu", seconds=2, hertz=1000, machines=machine))
        )
        for _ in range(asked)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    call.cancel()
    assert len(found) == asked
    for collected in found:
        [comment] = collected.profile.comments
        rate = int(re.fullmatch(r"sampled (\d+) times a second: .*", comment)[1])  # type: ignore[index]  # it is there
        assert rate <= 500 * cpus / asked
        samples, spent = (
            by(collected.profile, "machine", "Work.add_up"),
            by(collected.profile, "machine", "Work.add_up", 1),
        )
        assert spent[machine.name] == pytest.approx(samples[machine.name] * 1e9 / rate, rel=0.01)
        assert 0.3e9 < spent[machine.name] < 4e9


def test_two_who_profile_one_machine_at_once_are_both_answered(session: Session) -> None:
    (machine, _) = session.machines()
    call = machine.submit(Work.spin)
    answers: list[Profile] = []

    def collect(**options: bool) -> None:
        answers.append(session.collect_profile("cpu", seconds=1, machines=machine, **options).profile)

    begin = time.monotonic()
    threads = [threading.Thread(target=collect, kwargs=options) for options in ({}, {"native": True}, {})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    took = time.monotonic() - begin
    call.cancel()
    assert took < 12
    assert [by(profile, "machine", "Work.spin")["m1"] > 20 for profile in answers] == [True] * 3


def test_the_formats_are_what_they_are_called(session: Session) -> None:
    calls = [machine.submit(Work.spin) for machine in session.machines()]
    told = {name: session.profile("gil", seconds=1, format=name, machines="m1") for name in ("folded", "speedscope")}
    assert "machine=m1;service=Work;" in told["folded"].decode()
    assert json.loads(told["speedscope"])["profiles"]
    assert session.profile("goroutine", format="svg").startswith(b"<svg")
    assert pprof.decode(session.profile("goroutine")).kinds == (("goroutine", "count"),)
    for call in calls:
        call.cancel()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"kind": "block"}, "no such profile 'block': there is cpu, gil, goroutine, heap, mutex"),
        ({"machines": "m9"}, "no machine 'm9': there is m1, m2"),
        ({"second": 3}, "the profile 'cpu' has no option 'second': there is gil, hertz, idle, native, nonblocking, "),
        ({"seconds": 0}, "seconds=0: it has to be a number above 0"),
        ({"hertz": 0, "seconds": 1}, "hertz=0: it has to be from 1 to 1000"),
        ({"format": "gif"}, "no such format 'gif': there is folded, pprof, speedscope, svg, text"),
        ({"kind": "goroutine", "debug": 3}, "debug=3: it has to be 0"),
        ({"kind": "heap", "mode": "full"}, "a heap cannot be told by 'full': there is types, tracemalloc, memray"),
        ({"kind": "mutex"}, "start machines with environ={'BIGMACHINE_MUTEX': '1'}"),
        ({"kind": "heap", "mode": "tracemalloc"}, "start machines with environ={'BIGMACHINE_TRACEMALLOC': '1'}"),
    ],
)
def test_what_is_asked_in_the_wrong_way_is_refused_with_what_there_is(
    session: Session, asked: dict[str, object], told: str
) -> None:
    with pytest.raises(InvalidCall) as caught:
        session.profile(**asked)  # type: ignore[arg-type]  # the wrong way
    assert told in str(caught.value)


def test_a_profile_that_cannot_be_there_before_the_deadline_is_not_begun(session: Session) -> None:
    with bigmachine.deadline(1), pytest.raises(DeadlineExceeded, match="cannot be there"):
        session.profile("cpu", seconds=30)


def test_threads_and_tasks_are_told_with_their_chains_of_awaits(session: Session) -> None:
    (machine, _) = session.machines()
    calls = [machine.submit(Work.park, 30) for _ in range(3)]
    spinning = machine.submit(Work.spin)
    # The tasks have begun, for this is sent after their calls; a thread begins when it has a processor.
    wait_for(lambda: by(session.collect_profile("goroutine").profile, "machine", "Work.spin"), "the thread has begun")
    collected = session.collect_profile("goroutine", driver=True)
    grouped = session.profile("goroutine", debug=1, machines=machine).decode()
    spinning.cancel()
    for call in calls:
        call.cancel()
    assert sorted(collected.standing) == ["driver", "m1", "m2"]
    parked = [
        [frame.function for frame in (key[0])]
        for key in collected.profile.samples
        if any(frame.function == "Work.deeper" for frame in key[0])
    ]
    assert [names[-3:] for names in parked] == [["Work.park", "Work.deeper", "sleep"]]
    assert by(collected.profile, "service", "Work.deeper") == {"Work": 3}
    assert "3 tasks at (bigmachine-call)\n    sleep (" in grouped
    assert by(collected.profile, "machine", "Work.spin") == {"m1": 1}


def test_a_program_that_stands_still_is_dumped_from_outside_and_holds_nobody_up(session: Session) -> None:
    (machine,) = session.start(1, services=[Work()])
    machine.wait()
    assert AGE not in session.vars()[machine.name] or session.vars()[machine.name][AGE].value == 0
    pid = pid_of(machine)
    os.kill(pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        stacks = session.collect_profile("goroutine")
        held = session.vars()
        took = time.monotonic() - begin
    finally:
        os.kill(pid, signal.SIGCONT)
    assert took < 12
    assert {machine.name, "m1", "m2"} <= set(stacks.taken)
    assert [each.kind for each in stacks.standing[machine.name]] == ["thread"] * len(stacks.standing[machine.name])
    assert any("_serve_here" in str(each.stack) for each in stacks.standing[machine.name])
    assert f"{machine.name}: it did not answer within 2 s" in "\n".join(stacks.profile.comments)
    # What it said last is kept, and what its agent says is new.
    assert held[machine.name][AGE].value > 1
    assert held[machine.name]["process.threads"].value >= 1
    assert held["m1"][AGE].value == 0
    machine.shutdown()


def test_what_a_machine_that_dies_would_have_told_is_missing(session: Session) -> None:
    (machine,) = session.start(1, services=[Work()])
    machine.wait()
    calls = [each.submit(Work.spin) for each in session.machines()]
    killer = threading.Timer(0.4, os.kill, (pid_of(machine), signal.SIGKILL))
    killer.start()
    profile = pprof.decode(session.profile("cpu", seconds=1))
    killer.join()
    assert profile.comments == [f"missing: {machine.name}: it stopped (signal)"]
    assert set(by(profile, "machine", "Work.spin")) == {"m1", "m2"}
    for call in calls[:2]:
        call.cancel()


def test_heaps_are_merged_by_type(session: Session) -> None:
    for machine, count in zip(session.machines(), (100, 200), strict=True):
        machine.call(Work.keep, count)
    profile = pprof.decode(session.profile("heap", gc=1))
    assert profile.kinds == (("inuse_objects", "count"), ("inuse_space", "bytes"))
    held = by(profile, "machine", "bytearray", at=1)
    assert 10e6 < held["m1"] < 12e6
    assert 20e6 < held["m2"] < 22e6
    assert "by type" in profile.comments[0]


def test_a_window_of_allocations_names_who_made_them(session: Session) -> None:
    pytest.importorskip("memray", reason="memray is an extra, and not installed here")
    (machine, _) = session.machines()
    call = machine.submit(Work.keep_after, 0.5)
    profile = session.collect_profile("heap", seconds=1.5, machines=machine).profile
    call.result()
    assert by(profile, "machine", "Work.keep", at=1)["m1"] + by(profile, "machine", "keep", at=1)["m1"] > 4.9e6
    assert profile.comments == ["allocated within 1.5 s, and still there at their end (memray)"]


def test_a_machine_started_for_it_notes_allocations_and_waits_for_locks() -> None:
    with bigmachine.start("local") as session:
        (machine,) = session.start(services=[Work()], environ={"BIGMACHINE_MUTEX": "1", "BIGMACHINE_TRACEMALLOC": "1"})
        machine.call(Work.keep, 50)
        machine.call(Work.contend, 0.2)
        waits = session.collect_profile("mutex").profile
        heap = session.collect_profile("heap").profile
    (values,) = [
        values
        for (stack, _), values in waits.samples.items()
        if stack[-1].function == "Work.contend" and values[1] > 1e7
    ]
    assert values[0] == 1
    assert 0.1e9 < values[1] < 5e9
    assert by(waits, "service", "Work.contend")["Work"] == 1
    assert 4.9e6 < by(heap, "machine", "Work.keep", at=1)["m1"] < 6e6


def test_where_nobody_may_trace_the_process_samples_itself_and_says_so(
    run_program: RunProgram, write: WriteProgram
) -> None:
    write("main.py", REFUSED)
    told = json.loads(run_program("main.py").out)
    assert told["spins"] > 10
    assert "biased" in told["comments"][0]


REFUSED = """
import ctypes, json, os, sys, time

if "--untraced" not in sys.argv:
    # Root may trace everybody by a capability, which is given up here for good (PR_CAPBSET_DROP, CAP_SYS_PTRACE).
    ctypes.CDLL(None).prctl(24, 19, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, *sys.argv, "--untraced"])

import bigmachine

class Work:
    def hide(self):
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: nobody without that capability may trace it
    def spin(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(2000))

if __name__ == "__main__":
    with bigmachine.start("local") as session:
        (machine,) = session.start(services=[Work()])
        machine.call(Work.hide)
        call = machine.submit(Work.spin, 2)
        profile = session.collect_profile("cpu", seconds=1).profile
        call.result()
    spins = sum(v[0] for (s, _), v in profile.samples.items() if any(f.function == "Work.spin" for f in s))
    print(json.dumps({"spins": spins, "comments": profile.comments}))
"""


def test_nothing_is_imported_before_somebody_looks(run_program: RunProgram, write: WriteProgram) -> None:
    write("main.py", LOADED)
    assert run_program("main.py").out.splitlines() == ["[]", "[]"]


LOADED = """
import sys
import bigmachine

class Loaded:
    def names(self):
        rooms = ("bigmachine.observe", "bigmachine.session.seeing.", "psutil", "tracemalloc", "memray", "opentelemetry")
        return [name for name in sys.modules if name.startswith(rooms) and not name.endswith(".sight")]

if __name__ == "__main__":
    with bigmachine.start("local") as session:
        print(session.start(services=[Loaded()])[0].call(Loaded.names))
    print(Loaded().names())
"""


def test_nothing_to_look_at_is_said() -> None:
    with bigmachine.start("local") as session, pytest.raises(BigmachineError, match="no machine to be looked at"):
        session.profile("goroutine")


def test_machines_inside_the_driver_send_whoever_asks_to_it() -> None:
    with bigmachine.start("inprocess") as session:
        session.start(services=[Work()])[0].wait()
        with pytest.raises(InvalidCall, match="profile the driver"):
            session.profile("cpu", seconds=1)
        collected = session.collect_profile("cpu", seconds=1, driver=True)
    assert collected.taken == ["driver"]


AGE = "vars.age_seconds"
