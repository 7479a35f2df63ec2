"""When a driver or an agent ends, however, all that it started ends, also what left no trace of where it came from."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from bigmachine import Keepalive, Machine, State
from bigmachine.agent.processes import control_groups
from bigmachine.agent.processes.control_groups import ControlGroups
from bigmachine.agent.processes.undertaker import Undertaker
from bigmachine.systems.local import LocalSystem
from tests.cluster.death_services import Mortal
from tests.cluster.processes import (
    LIMIT,
    Cluster,
    agent_pid,
    below,
    cluster_in,
    is_alive,
    machine_pid,
    wait_for,
    wait_until_gone,
)
from tests.cluster.programs import IMPORTABLE, StartProgram

#: From the kill to the end of the last process; 0.3 s on a computer that does nothing else.
AT_ONCE = 1.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_in(tmp_path, 2, more=[Mortal()]) as cluster:
        yield cluster


@pytest.fixture
def groups() -> Iterator[Callable[[int], list[str]]]:
    """Give what lists the control groups of an agent; at the end of the test none of those may be left."""
    probe = ControlGroups.make(f"bigmachine-test-{os.getpid()}")
    if probe is None:
        pytest.skip("this user may make no control groups here: no writable cgroup")
    assert control_groups.remove(probe.directory, 1)
    above = os.path.dirname(probe.directory)
    agents: set[int] = set()

    def now(agent: int) -> list[str]:
        agents.add(agent)
        return [name for name in os.listdir(above) if name.startswith("bigmachine-") and name.endswith(f"-{agent}")]

    yield now
    for agent in agents:
        wait_for(lambda agent=agent: not now(agent), "no control group is left", 2.0)  # type: ignore[misc]  # a default


def test_a_recluse_ends_with_its_machine(groups: Callable[[int], list[str]], cluster: Cluster) -> None:
    one, other = cluster.machines
    settle(cluster.machines)
    assert len(groups(agent_pid(one))) == 1
    mine, others = one.call(Mortal.start_recluse), other.call(Mortal.start_recluse)
    os.kill(machine_pid(one), signal.SIGKILL)
    wait_until_gone([mine], AT_ONCE)
    assert is_alive(others)
    other.shutdown()
    wait_until_gone([others], AT_ONCE)


def test_a_fork_in_a_session_of_its_own_ends_with_its_machine(
    groups: Callable[[int], list[str]], cluster: Cluster
) -> None:
    settle(cluster.machines)
    agent = agent_pid(cluster.machine)
    pid = cluster.machine.call(Mortal.start_fork)
    os.kill(machine_pid(cluster.machine), signal.SIGKILL)
    wait_until_gone([pid], AT_ONCE)
    assert groups(agent)


def settle(machines: list[Machine]) -> None:
    """Wait until machines are in their control groups."""
    for machine in machines:
        name = machine.address.rpartition("/")[2]
        pid = machine_pid(machine)
        wait_for(partial(is_in_group, pid, name), "it has moved")


def is_in_group(pid: int, name: str) -> bool:
    return f"/{name}\n" in Path(f"/proc/{pid}/cgroup").read_text()


@pytest.mark.parametrize("signals", [(signal.SIGKILL,), (signal.SIGSTOP, signal.SIGKILL)])
def test_an_agent_that_is_killed_leaves_nothing(
    groups: Callable[[int], list[str]], cluster: Cluster, signals: tuple[signal.Signals, ...]
) -> None:
    settle(cluster.machines)
    agent = agent_pid(cluster.machine)
    pids = [agent, *below(agent), cluster.machine.call(Mortal.start_recluse), cluster.machine.call(Mortal.start_fork)]
    assert len(pids) >= 7  # agent, undertaker, zygote, two machines and what one of them started
    for number in signals:
        os.kill(agent, number)
    wait_until_gone(pids, AT_ONCE)
    wait_for(lambda: not groups(agent), "the control groups are removed", AT_ONCE)


def test_an_undertaker_that_was_relieved_leaves_its_work_to_the_next(
    groups: Callable[[int], list[str]], cluster: Cluster
) -> None:
    settle(cluster.machines)
    agent = agent_pid(cluster.machine)
    wait_for(lambda: is_relieved(agent), "the undertaker is a fork of the zygote, and the first one is gone")
    pids = [agent, *below(agent), cluster.machine.call(Mortal.start_recluse), cluster.machine.call(Mortal.start_fork)]
    os.kill(agent, signal.SIGKILL)
    wait_until_gone(pids, AT_ONCE)
    wait_for(lambda: not groups(agent), "the control groups are removed", AT_ONCE)


def is_relieved(agent: int) -> bool:
    """Tell whether an agent has one undertaker, and that was started after its zygote."""
    named: dict[str, list[int]] = {}
    for pid in below(agent):
        name, _, fields = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        named.setdefault(name, []).append(int(fields.split()[19]))  # when it was started: proc_pid_stat(5)
    undertakers, zygotes = named.get("bigm-undertaker", []), named.get("bigm-zygote", [])
    return len(undertakers) == 1 and undertakers[0] > min(zygotes)


def test_without_control_groups_what_an_agent_leaves_is_found_by_its_mark(
    tmp_path: Path,
) -> None:
    with cluster_in(tmp_path, 1, more=[Mortal()]) as cluster:
        agent = agent_pid(cluster.machine)
        settle(cluster.machines)
        pids = cluster.machine.call("Target.start_strays")
        pids.append(cluster.machine.call(Mortal.start_fork))
        for pid in pids:  # out of their group, as on a host where there is none
            for place in place_of_root():
                Path(place, "cgroup.procs").write_text(str(pid))
        os.kill(agent, signal.SIGKILL)
        wait_until_gone(pids, AT_ONCE)


def place_of_root() -> list[str]:
    directories = control_groups._writable()
    if not directories:
        pytest.skip("this user may make no control groups here, so all is found by its mark anyway")
    return directories[:1]


def test_an_agent_that_stands_still_for_good_is_ended_with_all_it_has(tmp_path: Path) -> None:
    clocks = Keepalive(interval=0.2, timeout=60.0, lease=0.5, hang=60.0)
    with cluster_in(tmp_path, 1, clocks, more=[Mortal()]) as cluster:
        agent = agent_pid(cluster.machine)
        pids = [agent, *below(agent), cluster.machine.call(Mortal.start_recluse)]
        began = time.monotonic()
        os.kill(agent, signal.SIGSTOP)
        wait_until_gone(pids, clocks.lease + 20.0)  # 6 s on a quiet host
        assert time.monotonic() - began > clocks.lease


def test_a_session_that_ends_leaves_no_undertaker(groups: Callable[[int], list[str]], tmp_path: Path) -> None:
    with cluster_in(tmp_path, 2) as cluster:
        agent = agent_pid(cluster.machine)
        pids = [agent, *below(agent)]
        cluster.session.shutdown()
        assert not any(map(is_alive, pids))
        assert not groups(agent)


def test_one_machine_more_does_not_wait_for_its_group(tmp_path: Path) -> None:
    with cluster_in(tmp_path, 1, more=[Mortal()]) as cluster:
        (machine,) = cluster.session.start(1, services=[Mortal()])
        machine.wait(State.RUNNING, LIMIT)
        assert machine.call(Mortal.nap, 0) == "rested"


# The undertaker by itself.


def test_an_undertaker_outlives_what_ends_a_group_and_ends_when_it_is_let_go() -> None:
    pid = os.fork()
    if pid == 0:  # this process has threads, which are none of the undertaker's business
        undertaker = Undertaker.engage()
        assert undertaker is not None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(undertaker.pid, number)
        time.sleep(0.1)
        alive = os.waitpid(undertaker.pid, os.WNOHANG) == (0, 0)
        undertaker.part(is_done=True)
        try:
            os.waitpid(undertaker.pid, os.WNOHANG)
        except ChildProcessError:
            os._exit(0 if alive else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_system_that_never_started_a_machine_leaves_nothing() -> None:
    system = LocalSystem()
    before = set(below(os.getpid()))
    system.prepare()
    wait_for(lambda: set(below(os.getpid())) - before, "the agent is there")
    pids = list(set(below(os.getpid())) - before)
    system.shutdown(2.0)
    wait_until_gone(pids, AT_ONCE)


HANDLED = """
import signal, sys, time
import bigmachine
from tests.cluster.death_services import Mortal

def stop(number, frame):
    session.shutdown()
    session.shutdown()
    sys.exit(7)

session = bigmachine.start("local")
machine, = session.start(1, services=[Mortal()])
machine.call(Mortal.pid)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
machine.call(Mortal.nap, 60)
"""


def test_a_handler_of_sigterm_may_shut_the_session_down_twice(start_program: StartProgram, tmp_path: Path) -> None:
    environ = {"PYTHONPATH": f"{IMPORTABLE}:{Path(__file__).parents[2]}"}
    program = tmp_path / "handled.py"
    program.write_text(HANDLED)
    running = start_program(program, environ=environ)
    wait_for(lambda: len(running.left()) >= 4, "driver, agent, zygote and machine are there")
    wait_for(lambda: b"ready" in Path(f"/proc/{running.process.pid}/fd/1").read_bytes(), "it is ready")
    began = time.monotonic()
    os.kill(running.process.pid, signal.SIGTERM)
    assert running.wait().status == 7
    assert time.monotonic() - began < 5.0
    assert running.left() == {}
