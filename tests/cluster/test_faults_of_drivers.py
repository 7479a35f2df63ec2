"""When the driver is gone, however, everything that it started is gone within a second."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.processes import below, is_alive, wait_for, wait_until_gone
from tests.cluster.programs import IMPORTABLE, Running, StartProgram, WriteProgram

GONE_WITHIN = 1.0
ROOT = str(Path(__file__).parents[2])

DRIVER = """
import json, os, sys, threading, time
import bigmachine
from tests.cluster.fault_services import SlowInit, Target

def main(mode, place):
    with bigmachine.start("local") as session:
        machines = session.start(3, services={"Target": Target()})
        pids = [machine.call("Target.pid") for machine in machines]
        waiting = []
        if mode == "calls":
            waiting = [machines[0].submit(Target.nap, 300), machines[1].submit(Target.doze, 300),
                       machines[2].submit(Target.hold_the_interpreter, 300)]
        elif mode == "bulk":
            big = bytes(256 << 20)
            waiting = [machine.submit(Target.echo, big) for machine in machines]
        elif mode == "starting":
            session.start(2, services=[SlowInit(300)])
            time.sleep(0.2)
        elif mode == "output":
            waiting = [machine.submit(Target.chatter) for machine in machines]
            time.sleep(0.2)
        elif mode == "forked":
            child = os.fork()
            if not child:
                time.sleep(300)
            print("the child", child)
            pids.append(-child)
        elif mode == "strays":
            for machine in machines:
                pids += machine.call(Target.start_strays)
        elif mode == "stopped":
            os.kill(pids[0], 19)
        with open(place + ".new", "w") as file:
            json.dump(pids, file)
        os.rename(place + ".new", place)
        if waiting:
            waiting[0].result()
        time.sleep(300)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture
def start_driver(
    start_program: StartProgram, write: WriteProgram, tmp_path: Path
) -> Callable[[str], tuple[Running, list[int]]]:
    """Start a driver; returns it and the processes that it reports (a child of its own as a negative number)."""

    def start(mode: str) -> tuple[Running, list[int]]:
        place = tmp_path / "pids.json"
        environ = {"PYTHONPATH": f"{IMPORTABLE}:{ROOT}"}
        running = start_program(write("drive.py", DRIVER), mode, place, environ=environ)
        wait_for(lambda: place.exists() or running.process.poll() is not None, "the driver is ready")
        assert running.process.poll() is None, running.wait()
        return running, json.loads(place.read_text())

    return start


@pytest.mark.parametrize("mode", ["idle", "calls", "bulk", "starting", "output", "strays", "stopped", "forked"])
def test_after_kill_9_of_the_driver_nothing_is_left_within_a_second(
    start_driver: Callable[[str], tuple[Running, list[int]]], mode: str
) -> None:
    running, reported = start_driver(mode)
    own = [-pid for pid in reported if pid < 0]
    pids = sorted({*(pid for pid in reported if pid > 0), *below(running.process.pid)} - set(own))
    assert len(pids) >= 5  # agent, zygote, machines
    assert all(map(is_alive, pids))
    os.kill(running.process.pid, signal.SIGKILL)
    try:
        wait_until_gone(pids, GONE_WITHIN)
        assert all(map(is_alive, own))  # it is the driver's, and nobody else's business
    finally:
        for pid in own:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGABRT])
def test_after_a_signal_that_ends_the_driver_nothing_is_left_within_a_second(
    start_driver: Callable[[str], tuple[Running, list[int]]], number: signal.Signals
) -> None:
    running, _ = start_driver("idle")
    pids = below(running.process.pid)
    os.kill(running.process.pid, number)
    wait_until_gone(pids, GONE_WITHIN)


def test_a_driver_that_leaves_without_a_word_leaves_nothing(start_program: StartProgram, tmp_path: Path) -> None:
    place = tmp_path / "pids"
    code = f"""
import os, bigmachine
from tests.cluster.fault_services import Target
session = bigmachine.start("local")
machine, = session.start(1, services=[Target()])
machine.wait()
open({str(place)!r}, "w").write(str(machine.call("Target.pid")))
os._exit(7)
"""
    running = start_program("-c", code, environ={"PYTHONPATH": f"{IMPORTABLE}:{ROOT}"})
    assert running.wait().status == 7
    wait_until_gone([int(place.read_text())], GONE_WITHIN)


def test_a_session_that_is_only_forgotten_ends_with_the_program(start_program: StartProgram) -> None:
    code = """
import bigmachine
from tests.cluster.fault_services import Target
session = bigmachine.start("local")
machine, = session.start(1, services=[Target()])
print(machine.call("Target.add", 1))
"""
    running = start_program("-c", code, environ={"PYTHONPATH": f"{IMPORTABLE}:{ROOT}"})
    begin = time.monotonic()
    outcome = running.wait()
    assert (outcome.status, outcome.out, outcome.err) == (0, "2\n", "")
    assert time.monotonic() - begin < 3.0
    assert running.left() == {}
