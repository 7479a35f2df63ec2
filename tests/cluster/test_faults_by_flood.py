"""Too much of anything, or anything at all in the place of a frame: no crash, no leak, no wrong answer."""

from __future__ import annotations

import contextlib
import pickle
import random
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bigmachine import Machine, NetworkError, State
from bigmachine.rpc.wire import (
    CALL,
    CANCEL,
    CLOSE,
    CREDIT,
    END,
    ERROR,
    HEADER,
    HELLO,
    ITEM,
    PING,
    PONG,
    RESULT,
    STREAMED,
    VERSION,
    small_frame,
)
from bigmachine.trust import client_context
from tests.cluster.fault_services import Hoarder, Target
from tests.cluster.processes import LIMIT, Cluster, agent_pid, cluster_in, is_alive, machine_pid, wait_for
from tests.cluster.programs import IMPORTABLE, RunProgram, WriteProgram
from tests.cluster.strangers import ends, hello, reset

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch"), 2, more=[Hoarder()]) as cluster:
        yield cluster


@pytest.fixture(params=["agent", "machine"])
def called(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    """Whom the flood comes down on."""
    return cluster.agent_id if request.param == "agent" else cluster.machine_id


def pid_of(cluster: Cluster, called: str) -> int:
    return machine_pid(cluster.machine) if called == cluster.machine_id else agent_pid(cluster.machine)


@contextmanager
def member(cluster: Cluster, called: str) -> Iterator[ssl.SSLSocket]:
    """Have a connection of a peer that belongs here, but not of a link."""
    context = client_context(cluster.session._identity)
    with (
        socket.create_connection(cluster.place, LIMIT) as sock,
        context.wrap_socket(sock, server_hostname=called) as tls,
    ):
        tls.settimeout(0.5)
        yield tls


def greeting(lane: int = 0) -> bytes:
    return small_frame(HELLO, 0, 0, pickle.dumps((VERSION, b"t" * 16, lane)))


def call(ident: int, method: str, *args: object) -> bytes:
    return small_frame(CALL, 0, ident, pickle.dumps((method, args, {}, None, None), 5))


BROKEN = {
    "a kind that is none": HEADER.pack(0, 0, 255, 0, 1),
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "a greeting that is no pickle": small_frame(HELLO, 0, 0, b"hello"),
    "a greeting of another version": small_frame(HELLO, 0, 0, pickle.dumps((VERSION + 1, b"", 0))),
    "a greeting of too few words": small_frame(HELLO, 0, 0, pickle.dumps(VERSION)),
    "a bulk lane of nobody": greeting(1),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_frame_ends_the_connection_and_nothing_else(cluster: Cluster, called: str, data: bytes) -> None:
    with cluster.unharmed(), member(cluster, called) as tls:
        tls.sendall(data)
        assert ends(tls)


ODD = {
    "a call that is no pickle": small_frame(CALL, 0, 1, b"call"),
    "a call of too few words": small_frame(CALL, 0, 1, pickle.dumps("call")),
    "a call of wrong types": small_frame(CALL, 0, 1, pickle.dumps((1, 2, 3, 4, 5))),
    "a call with streams that are none": small_frame(
        CALL, STREAMED, 1, pickle.dumps(("Target.echo", (1,), {}, None, None))
    ),
    "a call before the greeting": call(1, "Target.echo", 1),
    "answers to nothing": b"".join(small_frame(kind, 0, 7, pickle.dumps(1)) for kind in (RESULT, ERROR, PONG)),
    "the rest of nothing": b"".join(
        small_frame(kind, 0, 7, payload) for kind, payload in ((ITEM, b"x"), (END, b""), (CLOSE, b""), (CANCEL, b""))
    ),
    "credit that is none": small_frame(CREDIT, 0, 7, b"x"),
    "credit for nothing": small_frame(CREDIT, 0, 7, struct.pack("<II", 2**32 - 1, 2**32 - 1)),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_a_frame_that_makes_no_sense_harms_nobody(cluster: Cluster, called: str, data: bytes) -> None:
    first = b"" if data == ODD["a call before the greeting"] else greeting()
    with cluster.unharmed(), member(cluster, called) as tls:
        tls.sendall(first + data + small_frame(PING, 0, 9))
        with contextlib.suppress(OSError):
            while (answer := tls.recv(65536)) and small_frame(PONG, 0, 9) not in answer:
                pass


def test_a_thousand_mutations_of_good_frames_harm_nobody(cluster: Cluster, called: str) -> None:
    chance = random.Random(20)
    method = "Target.echo" if called == cluster.machine_id else f"Supervisor@{cluster.machine_id}.ping"
    good = greeting() + b"".join(call(ident, method, b"x" * 50) for ident in range(1, 6)) + small_frame(CANCEL, 0, 3)
    with cluster.unharmed():
        for _ in range(50):
            with member(cluster, called) as tls:
                data = bytearray()
                for _ in range(20):
                    piece = bytearray(good)
                    for _ in range(chance.randrange(4)):
                        piece[chance.randrange(len(piece))] = chance.randrange(256)
                    data += piece[: chance.choice((len(piece), chance.randrange(len(piece))))]
                try:
                    tls.sendall(data)
                except OSError:
                    continue
    assert is_alive(pid_of(cluster, called))


def memory_of(pid: int) -> int:
    """Return what a process has in memory, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_a_promise_of_gigabytes_takes_no_memory(cluster: Cluster, called: str) -> None:
    pid = pid_of(cluster, called)
    before = memory_of(pid)
    with cluster.unharmed(), ExitStack() as stack:
        for _ in range(4):
            tls = stack.enter_context(member(cluster, called))
            tls.sendall(greeting() + HEADER.pack(10, 1, CALL, 0, 1) + struct.pack("<Q", 8 * 2**30) + b"x" * 1000)
        for _ in range(4):
            tls = stack.enter_context(member(cluster, called))
            tls.sendall(greeting() + HEADER.pack(2**32 - 1, 0, CALL, 0, 1) + b"x" * 1000)
        time.sleep(0.1)
        assert memory_of(pid) - before < 64 * MEBIBYTE


def test_a_peer_that_does_not_read_its_answers_takes_little_memory(cluster: Cluster) -> None:
    pid = machine_pid(cluster.machine)
    before = memory_of(pid)
    with cluster.unharmed(), member(cluster, cluster.machine_id) as tls:
        tls.sendall(greeting())
        sent = 0
        with contextlib.suppress(TimeoutError):  # then this side is not read any more, either
            for ident in range(1, 100_000):
                sent += len(request := call(ident, "Target.echo", b"x" * 60_000))
                tls.sendall(request)
        assert sent < 128 * MEBIBYTE
        assert memory_of(pid) - before < 128 * MEBIBYTE


def test_ten_thousand_connections_that_come_and_go_leave_nothing(cluster: Cluster, called: str) -> None:
    pid = pid_of(cluster, called)
    first = hello(called)
    with cluster.unharmed():
        for number in range(5000):
            with socket.create_connection(cluster.place, LIMIT) as sock:
                if number % 50 == 0:
                    sock.sendall(first[: number % len(first)])
                if number % 3 == 0:
                    reset(sock)
        before = memory_of(pid)
        for number in range(200):
            with socket.create_connection(cluster.place, LIMIT) as sock:
                sock.sendall(first)
                if number % 2:
                    sock.recv(1)
        assert memory_of(pid) - before < 32 * MEBIBYTE


def is_served(cluster: Cluster) -> bool:
    """Tell whether the first machine takes a new connection and answers."""
    try:
        with member(cluster, cluster.machine_id) as tls:
            tls.sendall(greeting() + call(1, "Target.echo", 1))
            return bool(tls.recv(1))
    except OSError:
        return False


def test_a_machine_without_descriptors_serves_whom_it_has_and_recovers(cluster: Cluster) -> None:
    machine, other = cluster.machines
    with cluster.unharmed():
        assert machine.call(Hoarder.take_all) > 10
        assert machine.call(Target.echo, 1) == 1
        assert not is_served(cluster)
        assert machine.call(Target.echo, 2) == 2
        machine.call(Hoarder.give_back)
        assert is_served(cluster)
    assert machine.state is other.state is State.RUNNING


def test_calls_by_a_thread_of_a_machine_without_descriptors_end(cluster: Cluster) -> None:
    """Also those that the thread has the loop run, which it would watch by a descriptor more."""
    with cluster.unharmed():
        (full,) = cluster.session.start(1, services=[Target(), Hoarder()])
        full.wait(State.RUNNING, LIMIT)
        link = full._program
        wait_for(lambda: full.call(Target.echo, 1) and link._direct and link._direct._socket, "a thread serves")
        full.call(Hoarder.take_all)
        with ThreadPoolExecutor(1) as pool:
            for _ in range(3):
                assert pool.submit(full.call, Target.nap, 0.001).result(LIMIT) == "rested"
                stream = pool.submit(full.call, Target.count).result(LIMIT)
                assert next(stream) == 0
                stream.close()
        full.shutdown()


def test_frames_that_make_no_sense_do_not_flood_the_log(cluster: Cluster) -> None:
    machine = cluster.machine
    with cluster.unharmed():
        before = int(machine.call("Supervisor.host_vars")["machine.log_records"].value)
        for _ in range(100):
            with member(cluster, cluster.machine_id) as tls, contextlib.suppress(OSError):
                tls.sendall(greeting() + ODD["a call of too few words"])
                while tls.recv(65536):
                    pass
        lines = machine.call("Supervisor.last_lines")
    told = [line for line in lines if "could not be understood" in line]
    assert told
    assert "the connection of driver" in told[-1]
    assert not any("Traceback" in line for line in lines)
    after = int(machine.call("Supervisor.host_vars")["machine.log_records"].value)
    assert after - before <= 20


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_whoever_dials_a_machine_without_descriptors_is_told_and_may_come_again(cluster: Cluster, left: int) -> None:
    """Also by a call without a deadline, of a machine that has not called that one before."""
    full = cluster.machine
    with cluster.unharmed():
        (caller,) = cluster.session.start(1, services=[Target()])
        caller.wait(State.RUNNING, LIMIT)
        full.call(Hoarder.take_all, left)
        try:
            begin = time.monotonic()
            call = caller.submit(Target.ask, full, "Target.add", 4)
            error = call.exception(LIMIT)
            assert time.monotonic() - begin < LIMIT / 2
            assert isinstance(error, NetworkError)
            assert error.temporary
            assert "has no file descriptor free" in str(error)
            assert cluster.machine_id in str(error)
        finally:
            full.call(Hoarder.give_back)
        wait_for(lambda: _asks(caller, full), "it is called")
        caller.shutdown()
        assert any("a connection was turned away" in line for line in full.call("Supervisor.last_lines"))
        assert full.state is State.RUNNING


def _asks(caller: Machine, full: Machine) -> bool:
    """Tell whether one machine can call another by now."""
    try:
        return caller.submit(Target.ask, full, "Target.add", 4).result(LIMIT) == 5
    except NetworkError:
        return False


FEW_DESCRIPTORS = """
import os, resource, socket, time
import bigmachine
from tests.cluster.fault_services import Target
from tests.cluster.processes import agent_pid

if __name__ == "__main__":
    with bigmachine.start("local") as session:
        machine, = session.start(1, services=[Target()])
        machine.wait()
        agent = agent_pid(machine)
        resource.prlimit(agent, resource.RLIMIT_NOFILE, (50, 50))
        host, _, port = machine.address.partition("/")[0].rpartition(":")
        crowd = [socket.create_connection((host, int(port)), 5) for _ in range(200)]
        time.sleep(0.5)
        print(len(os.listdir(f"/proc/{agent}/fd")), machine.call(Target.add, 1), machine.call("Supervisor.ping", 2))
        for sock in crowd:
            sock.close()
        end = time.monotonic() + 10
        while len(os.listdir(f"/proc/{agent}/fd")) > 40 and time.monotonic() < end:
            time.sleep(0.01)  # until the agent has noticed
        begin = time.monotonic()
        other, = session.start(1, services=[Target()])
        print(other.call(Target.add, 3))
        assert time.monotonic() - begin < 2
        print(machine.call(Target.ask, other, "Target.add", 4))
"""


def test_an_agent_without_descriptors_serves_whom_it_has_and_recovers(
    run_program: RunProgram, write: WriteProgram
) -> None:
    environ = {"PYTHONPATH": f"{IMPORTABLE}:{Path(__file__).parents[2]}"}
    outcome = run_program(write("few.py", FEW_DESCRIPTORS), environ=environ)
    assert outcome.out.splitlines() == ["50 2 2", "4", "5"]
    (complaint,) = outcome.err.splitlines()
    assert "no connection can be accepted for now" in complaint
