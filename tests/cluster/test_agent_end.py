"""Everything ends: whoever dies, and however, nothing that was started is left a second later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bigmachine.agent import Clocks, Stopped
from bigmachine.agent.processes.tree import look_at
from bigmachine.errors import BigmachineError
from tests.cluster.raw_driver import AGENT, LIMIT, PATIENT, SERVE, RawDriver, is_alive, raw_driver, wait_until

#: A program with everything that may outlive it: a child, one that left its group, and an orphan that did.
FAMILY = """
import os, signal, subprocess, sys, time
sleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
signal.signal(signal.SIGTERM, signal.SIG_IGN)
children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
orphan = subprocess.run(
    [sys.executable, "-S", "-c",
     "import os, subprocess, sys; print(subprocess.Popen(sys.argv[1:], start_new_session=True, "
     "stdout=subprocess.DEVNULL).pid)", *sleep],
    stdout=subprocess.PIPE, check=True)
print(os.getpid(), *[child.pid for child in children], int(orphan.stdout), flush=True)
"""

DRIVER = """
import os, sys, time
from pathlib import Path
from tests.cluster.raw_driver import RawDriver, SERVE
from tests.cluster.test_agent_end import FAMILY, family
driver = RawDriver(Path(sys.argv[1]))
for number in (1, 2, 3):
    driver.launch(number, FAMILY + SERVE)
pids = [driver.process.pid]
for number in (1, 2, 3):
    driver.serving(number)
    pids += family(driver, number)
if os.fork() == 0:  # a child that holds the pipe of the tether open
    time.sleep(60)
    os._exit(0)
print(*pids, flush=True)
time.sleep(60)
"""


def family(driver: RawDriver, number: int) -> list[int]:
    """The pids that `FAMILY` printed."""
    wait_until(lambda: driver.output(number).endswith(b"\n"), "the program told its pids")
    return [int(pid) for pid in driver.output(number).split()]


def below(pid: int) -> list[int]:
    """All living descendants of a process."""
    processes = [process for name in os.listdir("/proc") if name.isdigit() and (process := look_at(int(name)))]
    found = [pid]
    for one in found:
        found += [process.pid for process in processes if process.parent == one and process.state not in "ZX"]
    return found[1:]


def gone_within(pids: list[int], seconds: float) -> float:
    """Wait until all are dead; gives how long that took."""
    began = time.monotonic()
    wait_until(lambda: not any(map(is_alive, pids)), f"dead: {[pid for pid in pids if is_alive(pid)]}", seconds)
    return time.monotonic() - began


def test_a_driver_that_is_killed_takes_everything_with_it(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        start_new_session=True,
    )
    assert driver.stdout is not None
    with driver.stdout:
        pids = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(pids) == 13
    pids += [pid for pid in below(pids[0]) if pid not in pids]
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(LIMIT)
    try:
        gone_within(pids, 1.0)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)  # its child, which only held the pipe


def test_an_agent_that_is_killed_takes_its_machines_with_it(tmp_path: Path) -> None:
    driver = RawDriver(tmp_path)
    driver.launch(1)
    driver.serving(1)
    driver.launch(2, "while True: pass")  # looks at no socket
    wait_until(lambda: "importing" in driver.phases(2), "the program runs")
    pids = below(driver.process.pid)
    assert set(driver.pids) < set(pids)
    os.kill(driver.process.pid, signal.SIGKILL)
    gone_within(pids, 1.0)
    driver.close()


def test_an_agent_that_is_told_to_terminate_ends_everything(tmp_path: Path) -> None:
    driver = RawDriver(tmp_path)
    driver.launch(1, FAMILY + SERVE)
    driver.serving(1)
    pids = [*below(driver.process.pid), *family(driver, 1)]
    os.kill(driver.process.pid, signal.SIGTERM)
    gone_within(pids, 1.0)
    driver.close()


def test_a_spawned_machine_dies_with_its_agent_too(tmp_path: Path) -> None:
    driver = RawDriver(tmp_path, fork=False)
    pid = driver.launch(1, "while True: pass")
    wait_until(lambda: "importing" in driver.phases(1), "the program runs")
    os.kill(driver.process.pid, signal.SIGKILL)
    gone_within([pid], 1.0)
    driver.close()


def test_letting_go_of_the_tether_ends_everything_at_once(tmp_path: Path) -> None:
    driver = RawDriver(tmp_path)
    driver.launch(1, FAMILY + SERVE)
    driver.launch(2, "while True: pass")
    driver.serving(1)
    pids = [*below(driver.process.pid), *family(driver, 1)]
    driver.close()
    gone_within(pids, 1.0)


def test_a_driver_that_ends_before_it_gave_orders_leaves_nothing(tmp_path: Path) -> None:
    from bigmachine.agent import agent_command

    process = subprocess.Popen(agent_command(sys.path), stdin=subprocess.PIPE, start_new_session=True)
    wait_until(lambda: below(process.pid), "there is a zygote")
    pids = below(process.pid)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(LIMIT)
    gone_within(pids, 1.0)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_what_a_machine_started_ends_with_it_and_others_live_on(tmp_path: Path, how: str) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1, FAMILY + SERVE)
        driver.launch(2, FAMILY + SERVE)
        driver.serving(1)
        driver.serving(2)
        mine, others = family(driver, 1), family(driver, 2)
        assert len(mine) == 4
        if how == "killed":
            os.kill(mine[0], signal.SIGKILL)
        else:
            driver.ask("Agent.stop", f"{AGENT}-m1", 1.0)
        driver.stopped(1)
        gone_within(mine, 1.0)
        assert all(map(is_alive, others))
        assert driver.call(driver.machine(2), "Supervisor.ping", 1) == 1


def test_a_machine_that_is_not_kept_alive_ends_and_then_its_agent(tmp_path: Path) -> None:
    driver = RawDriver(tmp_path, Clocks(lease=0.5, hang=60, first_contact=60), listen=False)
    events = driver.ask("Agent.events", 0)
    driver.launch(1)
    # From here on the driver is silent; its connection stays, as that of a stopped process does.
    certificate = next(event.certificate for event in events if isinstance(event, Stopped))
    assert certificate.cause == "lease_expired"
    assert certificate.lifetime is not None
    assert certificate.lifetime < 2
    driver.process.wait(5)
    driver.close()


def test_a_machine_that_is_kept_alive_outlives_its_lease(tmp_path: Path) -> None:
    with raw_driver(tmp_path, Clocks(lease=0.5, hang=60, first_contact=60)) as driver:
        driver.launch(1)
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            driver.ask(f"Supervisor@{AGENT}-m1.keepalive", 0.5)
            time.sleep(0.1)
        assert is_alive(driver.pids[0])
        assert driver.stopped(1).certificate.cause == "lease_expired"


def test_an_agent_that_nobody_calls_ends(tmp_path: Path) -> None:
    driver = RawDriver(tmp_path, Clocks(lease=60, hang=60, first_contact=0.3), listen=False)
    driver.process.wait(5)
    driver.close()


def test_a_stopped_machine_is_hung(tmp_path: Path) -> None:
    with raw_driver(tmp_path, Clocks(lease=60, hang=0.5, first_contact=60)) as driver:
        pid = driver.launch(1)
        driver.serving(1)
        os.kill(pid, signal.SIGSTOP)
        certificate = driver.stopped(1, 3.0).certificate
        assert certificate.cause == "hung"
        assert not is_alive(pid)


def test_a_program_whose_loop_stands_still_is_hung_and_its_stacks_are_kept(tmp_path: Path) -> None:
    source = """
import threading
from bigmachine import program
def make_session(machine, server):
    server.reactor.loop.call_later(0.1, wait_for_godot)
def wait_for_godot():
    threading.Event().wait()
program.serve(make_session)
"""
    with raw_driver(tmp_path, Clocks(lease=60, hang=0.5, first_contact=60)) as driver:
        driver.launch(1, source)
        end = driver.stopped(1, 5.0)
        assert end.certificate.cause == "hung"
        assert "wait_for_godot" in end.text


def test_a_machine_that_holds_the_interpreter_is_busy_not_hung(tmp_path: Path) -> None:
    source = """
from bigmachine import program
def make_session(machine, server):
    server.reactor.loop.call_later(0.1, lambda: print(len(str(pow(7, 200_000))), flush=True))
program.serve(make_session)
"""
    with raw_driver(tmp_path, Clocks(lease=60, hang=0.5, first_contact=60)) as driver:
        # One conversion in C, without a look at anything else, for some seconds.
        driver.launch(1, "import sys; sys.set_int_max_str_digits(0)\n" + source.replace("200_000", "600_000"))
        wait_until(lambda: driver.output(1).endswith(b"\n"), "the number is there")
        assert driver.output(1) == b"507059\n"
        assert driver.call(driver.machine(1), "Supervisor.ping", 1) == 1


def test_a_program_that_closes_its_control_socket_is_ended(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1, "import os, time\nos.closerange(3, 100)\ntime.sleep(60)\n")
        certificate = driver.stopped(1, 5.0).certificate
        assert certificate.cause == "hung"
        assert "control socket" in certificate.detail


def test_an_end_stops_all_and_the_agent_goes_when_all_is_acknowledged(tmp_path: Path) -> None:
    driver = RawDriver(tmp_path)
    for number in (1, 2, 3):
        driver.launch(number, "import atexit\natexit.register(print, 'good bye')\n" + SERVE)
    for number in (1, 2, 3):
        driver.serving(number)
    driver.ask("Agent.end", 5.0)
    for number in (1, 2, 3):
        end = driver.stopped(number)
        assert (end.certificate.cause, end.certificate.exit_status) == ("shutdown", 0)
        assert driver.output(number) == b"good bye\n"
    assert driver.process.wait(1.0) == 0
    driver.close()


def test_an_agent_that_is_ending_starts_no_machine(tmp_path: Path) -> None:
    driver = RawDriver(tmp_path, listen=False)
    driver.launch(1)
    driver.ask("Agent.end", 5.0)
    with pytest.raises(BigmachineError, match="ending"):
        driver.launch(2)
    driver.process.wait(5)
    driver.close()


def test_many_machines_start_and_end_at_once(tmp_path: Path) -> None:
    with raw_driver(tmp_path, PATIENT) as driver:
        specs = [driver.spec(number) for number in range(40)]
        calls = [driver.agent.submit("Agent.launch", (spec,), {}, LIMIT) for spec in specs]
        driver.pids += [call.result(LIMIT) for call in calls]
        assert len(set(driver.pids)) == 40
        for number in range(40):
            driver.serving(number)
        for pid in driver.pids:
            os.kill(pid, signal.SIGKILL)
        for number in range(40):
            assert driver.stopped(number).certificate.signal == signal.SIGKILL
