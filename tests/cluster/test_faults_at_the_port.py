"""Whoever connects without belonging to the session is sent away at once, and nobody inside notices."""

from __future__ import annotations

import dataclasses
import importlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import bigmachine
from bigmachine import AuthenticationError, BigmachineError, MachineStopped, NetworkError
from bigmachine.rpc import Link, TlsDialer
from bigmachine.trust import Authority, Identity, Role, client_context
from tests.cluster.fault_services import Intruder, Target
from tests.cluster.processes import LIMIT, Cluster, cluster_in, is_alive, machine_pid
from tests.cluster.strangers import GARBAGE, connected, ends, hello, read_all, reset, talk

#: "At once", on a busy computer: well before the time that a handshake may take (10 s).
AT_ONCE = 5.0


def _has_aiofastnet() -> bool:
    try:
        importlib.import_module("aiofastnet")
    except ImportError:
        return False
    return True


#: aiofastnet keeps TLS alerts to itself, so those it refuses see a closed connection.
TELLS_WHY = not _has_aiofastnet()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch"), 2) as cluster:
        yield cluster


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_tls_is_hung_up_on(cluster: Cluster, data: bytes) -> None:
    with cluster.unharmed(), connected(cluster.place, AT_ONCE) as sock:
        sock.sendall(data)
        assert ends(sock)


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_after_a_greeting_is_hung_up_on(cluster: Cluster, called: str, data: bytes) -> None:
    with cluster.unharmed(), connected(cluster.place, AT_ONCE) as sock:
        sock.sendall(hello(called) + data)
        assert ends(sock)


def test_nobody_answers_for_a_name_that_is_not_there(cluster: Cluster) -> None:
    for name in ("h000000", f"{cluster.agent_id}-m99", "localhost", "xn--nxasmq6b", "a" * 60):
        with cluster.unharmed(), connected(cluster.place, AT_ONCE) as sock:
            sock.sendall(hello(name))
            assert read_all(sock) == bytes((21, 3, 3, 0, 2, 2, 112))  # alert, fatal, unrecognized_name: RFC 8446, 6


@pytest.mark.parametrize("leave", [lambda sock: sock.close(), reset], ids=["closing", "resetting"])
def test_whoever_leaves_in_the_middle_of_a_handshake_leaves_nothing(
    cluster: Cluster, called: str, leave: Callable[[socket.socket], None]
) -> None:
    with cluster.unharmed():
        for length in (0, None):
            with connected(cluster.place) as sock:
                sock.sendall(hello(called)[:length])
                leave(sock)
        with connected(cluster.place) as sock:
            sock.sendall(hello(called))
            assert sock.recv(1)  # the server is in the middle of it, too
            leave(sock)


def test_whoever_stops_in_the_middle_of_a_handshake_is_hung_up_on_in_time(cluster: Cluster) -> None:
    greetings = [hello(cluster.agent_id), hello(cluster.machine_id)]
    with cluster.unharmed(), ExitStack() as stack:
        begin = time.monotonic()

        def stopped_after(data: bytes) -> socket.socket:
            sock = stack.enter_context(connected(cluster.place, 12.0))
            sock.sendall(data)
            return sock

        unknown = [stopped_after(data) for data in (b"", b"\x16", greetings[0][:100], greetings[1][:-1])]
        known = [stopped_after(data) for data in greetings]
        for data in (b"\x16", greetings[0][:100], greetings[1][:-1]):
            stopped_after(data).close()
        for sock in unknown:  # 5 s for a greeting
            assert ends(sock)
            assert time.monotonic() - begin < 6.5
        for sock in known:  # 10 s for a handshake
            assert ends(sock)


def test_a_crowd_that_says_nothing_keeps_nobody_out(cluster: Cluster, called: str) -> None:
    with cluster.unharmed(), ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connected(cluster.place))
        context = client_context(cluster.session._identity)
        method = "Target.echo" if called == cluster.machine_id else f"Supervisor@{cluster.machine_id}.ping"
        assert outcome(cluster, called, context, method, 1) == 1


def another(cluster: Cluster, what: str) -> Identity | None:
    """An identity that is not of this session, though all that is no secret is the same."""
    if what == "nobody":
        return None
    ours = cluster.session._identity
    forger = Authority(ours.session).issue(ours.role, ours.id)
    return dataclasses.replace(forger, authority=ours.authority)


@pytest.mark.parametrize("what", ["nobody", "forger"])
@pytest.mark.parametrize("alpn", ["bigmachine/1", "h2", "http/1.1"])
def test_a_client_without_a_certificate_of_the_session_is_told_so_by_tls(
    cluster: Cluster, called: str, what: str, alpn: str
) -> None:
    with cluster.unharmed():
        answer = talk(cluster.place, called, b"x" * 100, another(cluster, what), alpn)
    assert not isinstance(answer, bytes) or answer == b""
    if TELLS_WHY:
        assert isinstance(answer, ssl.SSLError)
        why = "CERTIFICATE_REQUIRED" if what == "nobody" else "ALERT_UNKNOWN_CA"
        assert why in answer.reason


@pytest.mark.parametrize("what", ["nobody", "forger"])
def test_a_link_without_a_certificate_of_the_session_fails_by_name(cluster: Cluster, called: str, what: str) -> None:
    identity = another(cluster, what)
    if identity is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=cluster.session._identity.authority.decode())
        context.set_alpn_protocols(["bigmachine/1"])
    else:
        context = client_context(identity)
    with cluster.unharmed(), pytest.raises(BigmachineError) as caught:
        outcome(cluster, called, context, "Target.echo", 1)
    assert type(caught.value) is (AuthenticationError if TELLS_WHY else NetworkError)


def outcome(cluster: Cluster, called: str, context: ssl.SSLContext, method: str, *args: object) -> object:
    """Return, or raise, what comes of a call over a link of its own, which has to be soon."""
    role = Role.AGENT if called == cluster.agent_id else Role.MACHINE
    session = cluster.session
    dialer = TlsDialer(*cluster.place, called, session._identity.session, (role,), context)
    link = Link(session._reactor, dialer, name=called)
    begin = time.monotonic()
    try:
        return link.submit(method, args, {}, LIMIT).result(LIMIT)
    finally:
        assert time.monotonic() - begin < AT_ONCE
        link.close(ConnectionError("done"))


def test_a_machine_of_another_session_is_not_believed(cluster: Cluster) -> None:
    with bigmachine.start("local") as other:
        (machine,) = other.start(1, services={"Target": Target()})
        machine.wait()
        begin = time.monotonic()
        with pytest.raises(MachineStopped) as caught:
            cluster.session.dial(machine.address).call(Target.echo, 1)
        assert time.monotonic() - begin < AT_ONCE
        assert isinstance(caught.value.__cause__, AuthenticationError)
        assert "could not prove who it is" in str(caught.value)
        assert machine.call(Target.echo, 1) == 1


@pytest.mark.parametrize(
    "address",
    ["{place}/{agent}-m99", "{place}/h000000-m1", "127.0.0.1:1/h000000-m1"],
    ids=["a machine", "an agent", "a port"],
)
def test_a_machine_that_does_not_exist_is_stopped_at_once(cluster: Cluster, address: str) -> None:
    with cluster.unharmed():
        place = "{}:{}".format(*cluster.place)
        begin = time.monotonic()
        machine = cluster.session.dial(address.format(place=place, agent=cluster.agent_id))
        with pytest.raises(MachineStopped) as called:
            machine.call(Target.echo, 1)
        with pytest.raises(MachineStopped) as waited:
            machine.wait(timeout=LIMIT)
        assert time.monotonic() - begin < AT_ONCE
        assert called.value.certificate == waited.value.certificate
        assert called.value.certificate.cause == "agent_lost"


def test_a_machines_certificate_opens_nothing_that_is_the_drivers(cluster: Cluster) -> None:
    (intruder,) = cluster.session.start(1, services=[Target(), Intruder()])
    intruder.wait(timeout=LIMIT)
    place, agent, victim = cluster.place, cluster.agent_id, cluster.machine_id
    pid = machine_pid(cluster.machine)

    def refused(server_id: str, role: Role, method: str, *args: object) -> str:
        with pytest.raises(AuthenticationError) as caught:
            intruder.call(Intruder.ask, place, server_id, role, method, *args)
        return str(caught.value)

    with cluster.unharmed():
        for method, arguments in {
            "Agent.launch": (1,),
            "Agent.events": (),
            "Agent.ack": (10**9,),
            "Agent.stop": (victim,),
            "Agent.end": (),
            f"Supervisor@{victim}.shutdown": (),
            f"Supervisor@{victim}.keepalive": (1e-9,),
            f"Supervisor@{victim}.exec": (),
            f"Supervisor@{victim}.set_env": ({"LD_PRELOAD": "/tmp/x"},),
            f"Supervisor@{victim}.profile": ("threads",),
        }.items():
            assert f"may not call {method}: only the driver" in refused(agent, Role.AGENT, method, *arguments)
        assert "only the driver installs services" in refused(
            victim, Role.MACHINE, "Supervisor.register", "Target", Target()
        )
        # What every machine may: look, and call services.
        assert intruder.call(Intruder.ask, place, agent, Role.AGENT, f"Supervisor@{victim}.ping", 7) == 7
        assert intruder.call(Intruder.ask, place, victim, Role.MACHINE, "Target.echo", 8) == 8
    assert is_alive(pid)
    intruder.shutdown()
