"""A machine that runs out of memory is told of before, looked into while it can be, and certified afterwards."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bigmachine import Machine, MachineStopped, State
from bigmachine.agent.processes import control_groups
from bigmachine.agent.watch.oom import KernelLog, OomWatch, victim_in
from bigmachine.observe import cgroups, pprof
from tests.cluster.death_services import Filler, Mortal
from tests.cluster.processes import LIMIT, Cluster, cluster_in, wait_for
from tests.cluster.programs import IMPORTABLE, RunProgram, WriteProgram

MIB = 1 << 20
LIMIT_NAMES = {1: "memory.limit_in_bytes", 2: "memory.max"}


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group with a limit on memory of 160 MiB; skip where that cannot be."""
    own, mounts = Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
    for hierarchy in cgroups.hierarchies(own, mounts, "memory"):
        path = Path(hierarchy.directories[0], f"bigmachine-test-memory-{os.getpid()}")
        try:
            path.mkdir()
            (path / LIMIT_NAMES[hierarchy.version]).write_text(str(160 * MIB))
        except OSError:
            control_groups.remove(str(path), 1.0)
            continue
        yield path
        assert control_groups.remove(str(path), 2.0)
        return
    pytest.skip("this user may make no control group with a limit on memory here")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_in(tmp_path, 1) as cluster:
        yield cluster


def start(cluster: Cluster, *services: object) -> Machine:
    (machine,) = cluster.session.start(1, services=[Filler(), *services])
    machine.wait(State.RUNNING, LIMIT)
    return machine


def test_an_oom_kill_is_told_from_any_other(cluster: Cluster, group: Path) -> None:
    machine = start(cluster)
    machine.call(Filler.move, str(group))
    error = machine.submit(Filler.fill, 0).exception(30)
    assert isinstance(error, MachineStopped)
    certificate = error.certificate
    assert (certificate.cause, certificate.signal) == ("oom", signal.SIGKILL)
    assert "its control group had used up its limit of 160 MiB" in certificate.detail
    assert group.name in certificate.detail
    assert certificate.peak_memory is not None
    assert 100 * MIB < certificate.peak_memory < 260 * MIB
    assert "keep less in memory" in str(error)


def test_a_kill_after_anothers_oom_kill_is_none(cluster: Cluster, group: Path) -> None:
    one, other = start(cluster), start(cluster, Mortal())
    for machine in (one, other):
        machine.call(Filler.move, str(group))
    pid = other.call(Mortal.pid)
    killed = one.submit(Filler.fill, 0).exception(30)
    assert isinstance(killed, MachineStopped)
    assert killed.certificate.cause == "oom"
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: other.state is State.STOPPED, "it is stopped")
    assert isinstance(other.error, MachineStopped)
    assert other.error.certificate.cause == "signal"
    # Only a log that can say yes says no.
    if KernelLog().is_complete:
        assert "not for want of memory" in other.error.certificate.detail


class BlindLog(KernelLog):
    """A kernel's log that nobody may read."""

    def __init__(self) -> None:
        super().__init__("/dev/no-such-log")


def hog(group: Path | None) -> subprocess.Popen[bytes]:
    """Start a process that waits for a line and then fills its memory."""
    move = f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()));" if group is not None else ""
    fill = "x = [bytearray(1 << 20) for _ in range(400)]"
    code = f"import os, sys; {move} print('here', flush=True); sys.stdin.readline(); {fill}"
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    return process


@pytest.mark.parametrize("make_log", [KernelLog, BlindLog])
def test_a_verdict_is_found_with_and_without_the_kernels_log(group: Path, make_log: Callable[[], KernelLog]) -> None:
    watch = OomWatch(make_log())
    with hog(group) as victim, hog(group) as bystander:
        watch.glance([victim.pid, bystander.pid], time.monotonic())
        victim.communicate(b"\n")
        assert victim.returncode == -signal.SIGKILL
        verdict = watch.judge(victim.pid)
        assert verdict.is_oom
        assert "160 MiB" in verdict.detail
        bystander.kill()
        bystander.communicate()
        assert not watch.judge(bystander.pid).is_oom


def test_without_a_log_and_a_group_the_hosts_count_makes_it_likely(group: Path) -> None:
    watch = OomWatch(BlindLog())
    with hog(group) as victim:  # which the watch does not see in its group
        victim.communicate(b"\n")
        verdict = watch.judge(victim.pid)
        assert verdict.is_oom
        assert "only likely, since /dev/no-such-log cannot be read" in verdict.detail


def test_what_cannot_be_told_is_said_so() -> None:
    watch = OomWatch(BlindLog())
    verdict = watch.judge(os.getpid())
    if not verdict.is_oom:  # or the kernel has just killed somebody else's process
        assert "cannot be told: /dev/no-such-log cannot be read" in verdict.detail


@pytest.mark.parametrize(
    ("record", "pid", "of_group"),
    [
        ("3,1,2,-;Out of memory: Killed process 4711 (python) total-vm:1kB", 4711, False),
        ("3,1,2,-;Memory cgroup out of memory: Killed process 12 (a) b) total-vm:1kB", 12, True),
        ("6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),oom_memcg=/x,task=py,pid=99,uid=0", 99, True),
        ("6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),task=py,pid=98,uid=0", 98, False),
    ],
)
def test_the_kernels_words_are_understood(record: str, pid: int, of_group: bool) -> None:
    victim = victim_in(record)
    assert victim is not None
    assert (victim.pid, victim.of_group) == (pid, of_group)
    assert victim_in("6,1,2,-;eth0: link up\n SUBSYSTEM=net Killed process 3") is None


# The warning.


def warned(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


def in_use(group: Path) -> int:
    (file,) = filter(Path.exists, (group / name for name in ("memory.usage_in_bytes", "memory.current")))
    return int(file.read_text())


def files_in(message: str) -> dict[str, Path]:
    paths = map(Path, message.partition("was saved: ")[2].split(", "))
    return {path.name.rpartition("-")[2]: path for path in paths}


def test_a_machine_is_told_of_and_looked_into_before_it_is_killed(
    cluster: Cluster, group: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "bigmachine")
    machine = start(cluster)
    machine.call(Filler.move, str(group))
    machine.call(Filler.fill, 100 * MIB, 0.001)
    assert not warned(caplog, "short of memory")
    error = machine.submit(Filler.fill, 0, 0.05).exception(30)
    assert isinstance(error, MachineStopped)
    assert error.certificate.cause == "oom"
    wait_for(lambda: warned(caplog, "was saved: "), "the files are saved")
    (warning,) = warned(caplog, "is short of memory")
    assert f"machine {machine.name} is short of memory: 9" in warning
    assert f"of the control group {group} is in use" in warning
    assert "of 160 MiB" in warning
    (saved,) = warned(caplog, "was saved: ")
    files = files_in(saved)
    for path in files.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.parent.parent == cluster.scratch
    heap = files["heap.txt"].read_text().splitlines()
    size, count, name = heap[2].split()
    assert name == "bytearray"
    assert int(count) > 50
    assert int(size) > 50 * MIB
    profile = pprof.decode(files["heap.pb.gz"].read_bytes())
    (found,) = [item for item in profile.samples.items() if item[0][0][-1].function == "bytearray"]
    assert found[0][1] == (("machine", machine.name),)
    assert found[1][1] == int(size)
    assert f"of {machine.name}, when its memory ran short" in profile.comments
    variables = json.loads(files["vars.json"].read_text())
    assert variables["memory"]["limit"] == 160 * MIB
    assert variables["memory"]["used"] >= 0.9 * 160 * MIB
    assert "Filler" in variables["program"]["services"]
    assert "Filler.fill" in str(variables["program"]["calls"])


def test_it_is_told_once_until_there_was_room_again(
    cluster: Cluster, group: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "bigmachine")
    machine = start(cluster)
    machine.call(Filler.move, str(group))
    for times in (1, 2):
        machine.call(Filler.fill, 149 * MIB)
        wait_for(lambda times=times: len(warned(caplog, "was saved: ")) == times, "it is told")  # type: ignore[misc]  # a default
        time.sleep(0.3)  # six looks
        assert len(warned(caplog, "is short of memory")) == times
        machine.call(Filler.empty)
        wait_for(lambda: in_use(group) < 0.5 * 160 * MIB, "there is room")
        time.sleep(0.7)  # one look, and more
    machine.shutdown()


def test_a_program_that_cannot_answer_is_looked_at_from_outside(
    cluster: Cluster, group: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "bigmachine")
    machine = start(cluster)
    machine.call(Filler.move, str(group))
    machine.submit(Filler.fill_and_block, 149 * MIB)
    wait_for(lambda: warned(caplog, "was saved: "), "the files are saved")
    files = files_in(warned(caplog, "was saved: ")[0])
    assert "fill_and_block" in files["stacks.txt"].read_text()
    assert json.loads(files["vars.json"].read_text())["program"] is None
    machine.cancel()


PROGRAM = """
import sys
import bigmachine
from tests.cluster.death_services import Filler
with bigmachine.start("local") as session:
    machine, = session.start(1, services=[Filler()])
    try:
        machine.call(Filler.fill, 0, 0.02)
    except bigmachine.MachineStopped as error:
        print(error.certificate.cause, error.certificate.detail)
"""


def test_a_whole_program_in_a_small_group_outlives_its_machine(
    run_program: RunProgram, write: WriteProgram, group: Path, tmp_path: Path
) -> None:
    # As in a container: driver, agent and machine share one limit, and the largest dies.
    move = f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
    environ = {
        "PYTHONPATH": f"{IMPORTABLE}:{Path(__file__).parents[2]}",
        "BIGMACHINE_DUMPS": str(tmp_path / "dumps"),
    }
    inside = f"import os\n\nif os.environ.get('BIGMACHINE_MODE') != 'machine':\n    {move}\n"
    outcome = run_program(write("fill.py", inside + PROGRAM), environ=environ)
    assert outcome.out.startswith("oom the kernel killed it because its control group had used up its limit of 160 MiB")
    assert "is short of memory" in outcome.err
    assert sorted(path.name.rpartition("-")[2] for path in (tmp_path / "dumps").iterdir()) == [
        "heap.pb.gz",
        "heap.txt",
        "vars.json",
    ]
