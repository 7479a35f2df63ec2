"""The diagnostic dump of a session, and the numbers in it, from real machines."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bigmachine
from bigmachine import Session
from bigmachine.errors import BigmachineError
from bigmachine.observe.openmetrics import openmetrics
from bigmachine.session.seeing.variables import plain
from tests.cluster.programs import RunProgram, WriteProgram


class Shop:
    """Counts what it sells."""

    def sell(self, count: int) -> None:
        sold = bigmachine.vars.counter("sold", "pieces sold")
        sold.inc(count)
        bigmachine.vars.histogram("size").observe(count)
        print("sold", count)

    def with_prometheus(self) -> None:
        import prometheus_client

        prometheus_client.Counter("hits", "hits", ["path"]).labels("/a").inc(3)
        prometheus_client.Histogram("took", "took", buckets=(0.1, 1.0)).observe(0.5)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with bigmachine.start("local", name="shops") as session:
        for machine in session.start(2, services=[Shop()]):
            machine.call(Shop.sell, 3)
        yield session


def wait_for(what: Callable[[], object], limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_numbers_of_all_machines_are_told_and_added_up(session: Session) -> None:
    for machine in session.machines():
        machine.call(Shop.sell, 2)
    told = session.vars()
    assert set(told) == {"m1", "m2"}
    assert session.vars(driver=True)["driver"]['session.events{event="running"}'].value == 2
    assert told["m1"]["sold"].value == 5
    assert told["m1"]['rpc.calls{method="Shop.sell"}'].value == 2
    assert told["m1"]['client.seconds{method="Shop.sell"}'].count == 2
    assert told["m1"]["process.rss_bytes"].value > 1 << 20
    assert 0 < told["m1"]["host.memory_limit_bytes"].value <= told["m1"]["host.memory_total_bytes"].value
    assert told["m1"]["machine.output_bytes"].value == len("sold 3\nsold 2\n")
    shape = plain(told)
    assert shape["_sum"]["sold"] == 10
    assert shape["_sum"]["size"]["count"] == 4  # type: ignore[index]  # a histogram is a dict
    assert json.loads(json.dumps(shape)) == shape
    text = openmetrics(told)
    assert 'bigmachine_sold_total{machine="m2"} 5' in text
    assert 'bigmachine_rpc_calls_total{machine="m1",method="Shop.sell"} 2' in text
    assert text.count("# TYPE bigmachine_rpc_calls counter") == 1


def test_how_late_the_event_loop_is_is_told_from_the_second_time_on(session: Session) -> None:
    session.vars()
    wait_for(lambda: session.vars()["m1"]["process.loop_lag_max_seconds"].value >= 0)


def test_what_the_program_counts_by_prometheus_is_passed_on(session: Session) -> None:
    pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
    (machine, _) = session.machines()
    assert not [name for name in session.vars()["m1"] if name.startswith("prometheus:hits")]
    machine.call(Shop.with_prometheus)
    told = session.vars()
    assert told["m1"]['prometheus:hits_total{path="/a"}'].value == 3
    assert told["m1"]["prometheus:took"].count == 1
    assert 'hits_total{machine="m1",path="/a"} 3' in openmetrics(told).splitlines()


def test_a_dump_holds_all_that_is_known(session: Session, tmp_path: Path) -> None:
    path = session.dump(tmp_path / "all.zip")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    assert set(files) == {
        *("status.json", "versions.json", "vars.json", "timeline.txt"),
        *("stacks.txt", "stacks-grouped.txt", "stacks.pb.gz", "heap.txt", "heap.pb.gz"),
        *("logs/m1.txt", "logs/m2.txt"),
    }
    status = json.loads(files["status.json"])
    assert status["session"] == "shops"
    assert [machine["state"] for machine in status["machines"]] == ["RUNNING", "RUNNING"]
    numbers = json.loads(files["vars.json"])
    assert numbers["_sum"]["sold"] >= 6
    assert numbers["driver"]["process.connections"] >= 2
    assert files["logs/m1.txt"].startswith(b"sold 3\n")
    assert b"m1:\n" in files["stacks.txt"]
    assert b"driver:\n" in files["stacks.txt"]
    assert any(line.startswith("numpy==") for line in json.loads(files["versions.json"])["installed"])


def test_a_dump_that_cannot_be_written_is_an_error_and_the_session_goes_on(session: Session, tmp_path: Path) -> None:
    place = tmp_path / "all.zip"
    place.write_bytes(b"what was there")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # what the kernel allows to write, as on a full disk
    try:
        with pytest.raises(BigmachineError, match=r"could not be written to .*all\.zip .*enough room"):
            session.dump(place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with pytest.raises(BigmachineError, match="No such file"):
        session.dump(tmp_path / "nowhere" / "all.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["all.zip"]
    assert place.read_bytes() == b"what was there"
    session.machines()[0].call(Shop.sell, 1)


def test_a_machine_that_stands_still_is_in_the_dump_as_seen_from_outside(session: Session, tmp_path: Path) -> None:
    (machine,) = session.start(services=[Shop()])
    machine.call(Shop.sell, 1)
    pid = machine.call("Supervisor.getpid")
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    path = session.dump(tmp_path / "all.zip")
    took = time.monotonic() - begin
    os.kill(pid, signal.SIGCONT)
    machine.cancel()
    with zipfile.ZipFile(path) as archive:
        stacks, heap = archive.read("stacks.txt").decode(), archive.read("heap.txt").decode()
        assert archive.read(f"logs/{machine.name}.txt") == b"sold 1\n"
    assert took < 25
    assert f"# {machine.name}: it did not answer within 2 s" in stacks
    assert f"# missing: {machine.name}: " in heap


def test_a_signal_asks_for_a_dump_until_the_session_ends(tmp_path: Path) -> None:
    before, hook = signal.getsignal(signal.SIGUSR1), sys.excepthook
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)

    signal.signal(signal.SIGUSR1, note)
    try:
        with bigmachine.start("local") as session:
            session.dump_on(tmp_path / "made")
            assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_for(lambda: list((tmp_path / "made").glob("*-signal.zip")))
            assert came == []
        assert (sys.excepthook, signal.getsignal(signal.SIGUSR1)) == (hook, note)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert came == [signal.SIGUSR1]  # as before
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(list((tmp_path / "made").iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_said(session: Session, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BigmachineError, match=r"dumps cannot be written to .*give another folder"):
        session.dump_on(tmp_path / "file" / "dumps")


def test_dumps_are_asked_for_by_flag_variable_and_file(
    run_program: RunProgram, write: WriteProgram, tmp_path: Path
) -> None:
    write("main.py", CONFIGURED)
    run_program("main.py", "--bigm.dump-on=by-flag", status=1)
    run_program("main.py", status=1, environ={"BIGMACHINE_DUMP_ON": "by-variable"})
    write("bigmachine.toml", 'dump-on = "by-file"\n')
    run_program("main.py", status=1)
    for place in ("by-flag", "by-variable", "by-file"):
        assert sorted(path.stem.rpartition("-")[2] for path in (tmp_path / place).iterdir()) == ["error", "signal"]


CONFIGURED = """
import os, signal, time
from pathlib import Path
import bigmachine

session = bigmachine.driver.start()
[folder] = [path for path in Path().iterdir() if path.name.startswith("by-") and not list(path.iterdir())]
os.kill(os.getpid(), signal.SIGUSR1)
end = time.monotonic() + 30
while not list(folder.glob("*-signal.zip")) and time.monotonic() < end:
    time.sleep(0.05)
raise ValueError("on purpose")
"""


def test_an_error_that_ends_the_program_leaves_a_dump(
    run_program: RunProgram, write: WriteProgram, tmp_path: Path
) -> None:
    write("main.py", FAILING)
    outcome = run_program("main.py", status=1)
    assert "ValueError: on purpose" in outcome.err
    (path,) = (tmp_path / "dumps").iterdir()
    with zipfile.ZipFile(path) as archive:
        # Taken before the machines were ended.
        assert [each["state"] for each in json.loads(archive.read("status.json"))["machines"]] == ["RUNNING"]


FAILING = """
import bigmachine

class Nothing:
    def do(self):
        pass

if __name__ == "__main__":
    with bigmachine.start("local") as session:
        session.dump_on("dumps", signum=None)
        session.start(services=[Nothing()])[0].wait()
        raise ValueError("on purpose")
"""
