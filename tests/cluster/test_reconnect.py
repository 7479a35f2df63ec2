"""A broken connection to a living machine is made anew; what runs once runs once; a healed network is used at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bigmachine import Machine, NetworkError, State
from bigmachine.rpc import Link
from tests.cluster.fault_services import Once, Target
from tests.cluster.processes import LIMIT, Cluster, cluster_in, nothing_left, undisturbed, wait_for
from tests.cluster.programs import IMPORTABLE, RunProgram, WriteProgram

#: A lost connection to a living machine is told after a verdict of at most a second.
TOLD_WITHIN = 1.5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch"), 2, more=[Once()]) as cluster:
        yield cluster


@pytest.fixture
def name() -> str:
    """A name for the call."""
    return uuid.uuid4().hex


def cut(link: Link) -> None:
    """Cut a link's connection, as a network does: neither side is told by the other."""
    connection = wait_for(lambda: link.main, "there is a connection")
    assert connection is not None

    async def abort() -> None:
        connection.abort()

    link.reactor.run(abort(), LIMIT)


def stop_reading(link: Link) -> None:
    """Let nothing come in any more by a link's connection, until it is cut."""

    async def pause() -> None:
        assert link.main is not None
        assert link.main._transport is not None
        link.main._transport.pause_reading()

    link.reactor.run(pause(), LIMIT)


def has_run(machine: Machine, name: str, times: int = 1) -> None:
    wait_for(lambda: machine.call(Once.runs_of, name) >= times, "it has begun")


def test_a_call_whose_connection_is_cut_fails_and_is_not_sent_again(cluster: Cluster, name: str) -> None:
    machine = cluster.machine
    with nothing_left(cluster.session, cluster.scratch), undisturbed(cluster.machines[1]):
        calls = [machine.submit(Once.run, name), machine.submit(Once.run_async, f"{name}-async")]
        stream = machine.call(Once.numbers, f"{name}-numbers")
        assert next(stream) == 0
        has_run(machine, name)
        begin = time.monotonic()
        cut(machine._program)
        for call in calls:
            error = call.exception(LIMIT)
            assert type(error) is NetworkError
            assert error.temporary
        with pytest.raises(NetworkError):
            for _ in stream:
                pass
        assert time.monotonic() - begin < TOLD_WITHIN
        begin = time.monotonic()
        assert machine.call(Target.echo, 1) == 1
        assert time.monotonic() - begin < 0.5
        machine.call(Once.let_go, name)
        for each in (name, f"{name}-async", f"{name}-numbers"):
            assert machine.call(Once.runs_of, each) == 1
    assert machine.state is State.RUNNING


@pytest.mark.parametrize("method", [Once.run, Once.run_async])
def test_a_retried_call_runs_once_however_often_it_is_cut(cluster: Cluster, name: str, method: Any) -> None:
    machine = cluster.machine
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(machine.retry_call, method, name)
        has_run(machine, name)
        for _ in range(3):
            cut(machine._program)
            machine.call(Target.echo, 1)
            wait_for(lambda: machine._program.main is not None, "there is a new connection")
            time.sleep(0.1)  # in which the call is sent again, or may be
        assert not outcome.done()
        machine.call(Once.let_go, name)
        assert outcome.result(LIMIT) == 1
    assert machine.call(Once.runs_of, name) == 1


def test_a_retried_call_whose_reply_is_lost_gets_it_again(cluster: Cluster, name: str) -> None:
    machine, other = cluster.machines
    machine.call(Once.let_go, name)
    stop_reading(machine._program)
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(machine.retry_call, Once.run, name)
        # Asked by way of the other machine, since our own ears are closed.
        wait_for(lambda: other.call(Target.ask, machine, "Once.runs_of", name) == 1, "it has run")
        time.sleep(0.05)
        assert not outcome.done()
        cut(machine._program)
        assert outcome.result(LIMIT) == 1
    assert machine.call(Once.runs_of, name) == 1


def test_a_cut_between_machines_is_the_callers_to_know_and_no_more(cluster: Cluster, name: str) -> None:
    one, other = cluster.machines
    assert one.call(Once.call_and_cut, other, name) == "NetworkError"
    assert one.call(Target.ask, other, "Target.echo", 5) == 5
    assert other.call(Once.runs_of, name) == 1
    other.call(Once.let_go, name)


def test_what_machines_print_survives_a_cut(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    machine = cluster.machine
    printed = ""

    def has_printed(line: str) -> bool:
        nonlocal printed
        printed += capsys.readouterr().err
        return line in printed

    for number in range(5):
        machine.call(Target.say, f"before cut {number}")
        cut(machine._agent)
        machine.call(Target.say, f"after cut {number}")
    wait_for(lambda: has_printed("after cut 4\n"), "the last line has come")
    expected = [f"{machine.name}: {when} cut {number}" for number in range(5) for when in ("before", "after")]
    assert printed.splitlines() == expected
    assert machine.state is State.RUNNING


#: Runs in a network of its own, whose loopback interface it cuts for the port of the agent.
PARTITION = """
import json, subprocess, sys, threading, time
import bigmachine
from bigmachine import Keepalive, NetworkError
from bigmachine.systems.local import LocalSystem
from tests.cluster.fault_services import Once, Target

def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)

def policies(what, port):
    rest = ["action", "block"] if what == "add" else []
    for end in ("dport", "sport"):
        packets = ["src", "127.0.0.1", "dst", "127.0.0.1", "proto", "tcp", end, str(port)]
        ip("xfrm", "policy", what, *packets, "dir", "in", *rest)

def timed(told, key, call):
    begin = time.monotonic()
    try:
        told[key] = call()
    except Exception as error:
        told[key] = type(error).__name__
    told[key + " ended"] = time.monotonic()

def main(seconds):
    told = {}
    clocks = Keepalive(interval=0.5, timeout=20.0, lease=20.0)
    with bigmachine.start(LocalSystem(keepalive=clocks)) as session:
        one, other = session.start(2, services=[Target(), Once()])
        port = int(one.address.partition("/")[0].rpartition(":")[2])
        one.call(Target.ask, other, "Target.echo", 1)
        other.call(Target.echo, 1)
        calls = {
            "in flight": lambda: one.call(Target.nap, seconds / 2),
            "in flight between machines": lambda: one.call(Target.ask, other, "Target.nap", seconds / 2),
            "retried": lambda: other.retry_call(Once.run, "retried"),
        }
        threads = [threading.Thread(target=timed, args=(told, key, call)) for key, call in calls.items()]
        for thread in threads:
            thread.start()
        while not other.call(Once.runs_of, "retried"):
            time.sleep(0.01)
        policies("add", port)
        time.sleep(seconds / 2)
        calls = {
            "made in between": lambda: one.call(Target.add, 1),
            "retried in between": lambda: one.retry_call(Target.add, 2),
        }
        more = [threading.Thread(target=timed, args=(told, key, call)) for key, call in calls.items()]
        for thread in more:
            thread.start()
        time.sleep(seconds / 2)
        policies("del", port)
        healed = time.monotonic()
        timed(told, "made afterwards", lambda: one.call(Target.add, 3))
        timed(told, "made afterwards to the other", lambda: other.call(Target.add, 4))
        timed(told, "made afterwards between machines", lambda: one.call(Target.ask, other, "Target.add", 5))
        timed(told, "made afterwards to the agent", lambda: one.call("Supervisor.ping", 6))
        other.call(Once.let_go, "retried")
        for thread in (*threads, *more):
            thread.join()
        told["runs"] = other.call(Once.runs_of, "retried")
        told["states"] = [one.state.name, other.state.name]
        print("the last line", file=sys.stderr)
    print(json.dumps({key: value - healed if key.endswith(" ended") else value for key, value in told.items()}))

if __name__ == "__main__":
    if bigmachine.is_driver():
        ip("link", "set", "lo", "up")
        with open("/proc/sys/net/ipv4/conf/lo/disable_policy", "w") as file:
            file.write("0")  # for loopback interfaces policies are not looked at otherwise
    main(float(sys.argv[1]))
"""


def own_network() -> list[str]:
    """Return the command that runs another in a network of its own; empty if there is none to be had."""
    for options in (["--net"], ["--map-root-user", "--net"]):
        probe = "ip link set lo up && ip xfrm policy list && echo 0 > /proc/sys/net/ipv4/conf/lo/disable_policy"
        try:
            done = subprocess.run(
                ["unshare", *options, "sh", "-c", probe], check=False, capture_output=True, timeout=10
            )
        except FileNotFoundError:
            return []
        if done.returncode == 0:
            return options
    return []


@pytest.mark.parametrize("seconds", [1.0, 7.0])
def test_after_a_partition_heals_calls_succeed_within_three_seconds(
    run_program: RunProgram, write: WriteProgram, seconds: float
) -> None:
    options = own_network()
    if not options:
        pytest.skip("a network of its own, with policies (`ip xfrm`), takes root or user namespaces")
    environ = {"PYTHONPATH": f"{IMPORTABLE}:{Path(__file__).parents[2]}"}
    program = write("partition.py", PARTITION)
    outcome = run_program(*options, sys.executable, program, str(seconds), executable="unshare", environ=environ)
    told = json.loads(outcome.out)
    assert told["states"] == ["RUNNING", "RUNNING"]
    assert told["runs"] == told["retried"] == 1
    for key, right in {
        "made afterwards": 4,
        "made afterwards to the other": 5,
        "made afterwards between machines": 6,
        "made afterwards to the agent": 6,
        "retried in between": 3,
    }.items():
        assert told[key] == right, key
        assert told[f"{key} ended"] < 3.0, key
    # Their outcome may be unknown, and then that is what they say, in time.
    for key, expected in {"in flight": "rested", "in flight between machines": "rested", "made in between": 2}.items():
        assert told[key] in (expected, "NetworkError"), key
        assert told[f"{key} ended"] < 4.0, key
    # TCP itself would sleep on until 12.6 s after a cut of 6.2 s or more (its time-outs double from 0.2 s).
    if seconds == 1.0:  # so short that the connections got over it
        assert told["in flight"] == "rested"
    assert outcome.err == "the last line\n"
