"""Who gets through a handshake, and who does not: real TLS, both ends."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bigmachine.errors import AuthenticationError
from bigmachine.trust import (
    Authority,
    Identity,
    Peer,
    Refused,
    Role,
    check_peer,
    client_context,
    peer_of,
    server_context,
    waiting_context,
)
from bigmachine.trust import contexts as contexts_module
from tests.unit.trust.handshakes import Outcome, converse

SESSION = "12ab34cd"
DAY = 86_400.0

AUTHORITY = Authority(SESSION)
DRIVER = AUTHORITY.issue(Role.DRIVER, "driver")
MACHINE = AUTHORITY.issue(Role.MACHINE, "h1a2b3c-m3")
AGENT = AUTHORITY.issue(Role.AGENT, "h1a2b3c")
# Another session that even took the same name: only its key differs.
STRANGER = Authority(SESSION)


def call(caller: Identity, answerer: Identity, called: str | None = None) -> Outcome:
    return converse(server_context(answerer), client_context(caller), called or answerer.id)


def assert_refused_by_client(outcome: Outcome, why: str) -> None:
    assert isinstance(outcome.client, ssl.SSLCertVerificationError), outcome
    assert why in outcome.client.verify_message
    assert isinstance(outcome.server, Exception)


def assert_refused_by_server(outcome: Outcome, why: str) -> None:
    assert isinstance(outcome.server, ssl.SSLError), outcome
    assert why in str(outcome.server)
    # The client hears of it by an alert, which it meets in its first read.
    assert isinstance(outcome.client, ssl.SSLError), outcome
    assert "ALERT" in outcome.client.reason


# --- who gets through


@pytest.mark.parametrize("role", list(Role))
def test_everybody_of_the_session_can_call_a_machine_and_both_know_each_other(role: Role) -> None:
    outcome = call(AUTHORITY.issue(role, "caller"), MACHINE)
    assert outcome == Outcome(server=Peer(SESSION, role, "caller"), client=MACHINE.peer)


def test_an_agent_can_be_called() -> None:
    assert call(DRIVER, AGENT) == Outcome(server=DRIVER.peer, client=AGENT.peer)


def test_identities_work_after_a_journey_through_json() -> None:
    caller, answerer = (Identity.from_dict(identity.to_dict()) for identity in (DRIVER, MACHINE))
    assert call(caller, answerer) == Outcome(server=DRIVER.peer, client=MACHINE.peer)


def test_a_certificate_from_a_clock_that_is_a_little_ahead_is_good() -> None:
    ahead = Authority(SESSION, clock=lambda: time.time() + 50)
    outcome = call(ahead.issue(Role.DRIVER, "driver"), ahead.issue(Role.MACHINE, "m1"))
    assert isinstance(outcome.server, Peer)
    assert isinstance(outcome.client, Peer)


# --- who does not


def test_a_server_of_a_foreign_authority_is_refused() -> None:
    outcome = call(DRIVER, STRANGER.issue(Role.MACHINE, MACHINE.id))
    # OpenSSL tries the authority of the same name, and finds that it did not sign.
    assert isinstance(outcome.client, ssl.SSLCertVerificationError)
    assert outcome.client.verify_code != 0


def test_a_caller_of_a_foreign_authority_is_refused() -> None:
    foreign = STRANGER.issue(Role.DRIVER, "driver")
    spy = dataclasses.replace(foreign, authority=AUTHORITY.certificate)  # it believes the machine, not the reverse
    assert_refused_by_server(call(spy, MACHINE), "certificate verify failed")


def test_a_machine_does_not_answer_for_another_id() -> None:
    assert_refused_by_client(call(DRIVER, MACHINE, called="h1a2b3c-m2"), "Hostname mismatch")


def test_a_caller_without_a_certificate_is_refused() -> None:
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.load_verify_locations(cadata=AUTHORITY.certificate.decode())
    outcome = converse(server_context(MACHINE), anonymous, MACHINE.id)
    assert_refused_by_server(outcome, "peer did not return a certificate")


@pytest.mark.parametrize("role", [Role.CLIENT, Role.DRIVER])
def test_a_certificate_of_one_who_only_calls_is_no_servers(role: Role) -> None:
    impostor = AUTHORITY.issue(role, "c1")
    with pytest.raises(AuthenticationError, match="cannot accept connections"):
        server_context(impostor)
    forced = server_context(dataclasses.replace(impostor, role=Role.MACHINE))
    assert_refused_by_client(converse(forced, client_context(DRIVER), "c1"), "certificate purpose")


def test_a_machine_cannot_issue_identities_by_itself() -> None:
    rogue = Authority(SESSION)
    key = load_pem_private_key(MACHINE.key, None)
    rogue._issuer._key = key  # type: ignore[assignment]  # any key, while ours is an elliptic one
    rogue._issuer._name = x509.Name([])  # the machine's own subject
    forged = rogue.issue(Role.DRIVER, "driver")
    chain = dataclasses.replace(
        forged, certificate=forged.certificate + MACHINE.certificate, authority=AUTHORITY.certificate
    )
    assert_refused_by_server(call(chain, MACHINE), "certificate verify failed")


def test_an_expired_server_is_refused() -> None:
    past = Authority(SESSION, clock=lambda: time.time() - 31 * DAY)
    outcome = call(past.issue(Role.DRIVER, "driver", valid_s=60 * DAY), past.issue(Role.MACHINE, "m1"))
    assert_refused_by_client(outcome, "certificate has expired")


def test_an_expired_caller_is_refused() -> None:
    past = Authority(SESSION, clock=lambda: time.time() - 31 * DAY)
    outcome = call(past.issue(Role.DRIVER, "driver"), past.issue(Role.MACHINE, "m1", valid_s=60 * DAY))
    assert_refused_by_server(outcome, "certificate has expired")


def test_a_caller_that_speaks_only_tls_1_2_is_refused() -> None:
    old = client_context(DRIVER)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert_refused_by_server(converse(server_context(MACHINE), old, MACHINE.id), "unsupported protocol")


def test_a_server_that_speaks_only_tls_1_2_is_refused() -> None:
    old = server_context(MACHINE)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    outcome = converse(old, client_context(DRIVER), MACHINE.id)
    assert isinstance(outcome.client, ssl.SSLError)
    assert isinstance(outcome.server, ssl.SSLError)


def test_nobody_calls_without_saying_whom() -> None:
    context = client_context(DRIVER)
    near, far = socket.socketpair()
    with near, far, pytest.raises(ValueError, match="server_hostname"):
        context.wrap_socket(near)
    for nobody in (None, ""):
        with pytest.raises(ValueError, match="server_hostname"):
            context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=nobody)


def test_the_context_for_threads_that_wait_is_the_same_but_for_a_protocol_that_nobody_chooses() -> None:
    context = client_context(DRIVER)
    waiting = waiting_context(context)
    assert waiting is waiting_context(context)
    assert waiting is not context
    outcome = converse(server_context(MACHINE), waiting, MACHINE.id)
    assert (outcome.server, outcome.client) == (DRIVER.peer, MACHINE.peer)
    assert (waiting.verify_mode, waiting.check_hostname) == (ssl.CERT_REQUIRED, True)
    server, client = _connected(waiting)
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == "bigmachine/1"
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert waiting_context(other) is other


# --- how the contexts are set


@pytest.mark.parametrize("make", [server_context, client_context])
def test_no_context_leaves_a_door_open(
    make: Callable[[Identity], ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "secrets"))
    context = make(MACHINE)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
    assert not context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert context.keylog_filename is None
    assert len(context.get_ca_certs()) == 1
    assert context.check_hostname is (make is client_context)


def test_a_server_gives_no_tickets() -> None:
    assert server_context(MACHINE).num_tickets == 0


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["bigmachine/1"], "bigmachine/1"),
        (["http/1.1", "h2", "bigmachine/1"], "bigmachine/1"),
        (["http/1.1", "h2"], "h2"),
        (["http/1.1"], "http/1.1"),
        (["spdy/1"], None),
    ],
)
def test_a_server_takes_the_best_protocol_that_is_offered(offered: list[str], chosen: str | None) -> None:
    client = client_context(DRIVER)
    assert _chosen_protocol(client) == "bigmachine/1"
    client.set_alpn_protocols(offered)
    assert _chosen_protocol(client) == chosen


def _chosen_protocol(client: ssl.SSLContext) -> str | None:
    return _connected(client)[1].selected_alpn_protocol()


def _connected(client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Finish a handshake in memory, as event loops do it; server and client."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        server_context(MACHINE).wrap_bio(up, down, server_side=True),
        client.wrap_bio(down, up, server_hostname=MACHINE.id),
    )
    waiting = set(ends)
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert not waiting
    return ends


# --- who is at the other end


class Shown:
    """A connection whose peer showed this certificate."""

    def __init__(self, *names: tuple[str, str]) -> None:
        self.names = names

    def getpeercert(self) -> dict[str, object]:
        return {"subjectAltName": self.names} if self.names else {}


DNS = ("DNS", "m1")
URI = ("URI", f"bigmachine://{SESSION}/machine/m1")


def test_the_peer_of_an_event_loops_connection_is_known() -> None:
    server, client = _connected(client_context(DRIVER))
    assert peer_of(server) == DRIVER.peer
    assert peer_of(client) == MACHINE.peer


def test_the_order_of_the_names_does_not_matter() -> None:
    assert peer_of(Shown(URI, DNS)) == peer_of(Shown(DNS, URI)) == Peer(SESSION, Role.MACHINE, "m1")


@pytest.mark.parametrize(
    "names",
    [
        (),
        (DNS,),
        (URI,),
        (DNS, ("URI", "https://example.org/")),
        (DNS, ("URI", f"bigmachine://{SESSION}/king/m1")),
        (DNS, ("URI", f"bigmachine://{SESSION}/machine/m1/../../driver/driver")),
        (DNS, ("URI", f"bigmachine://{SESSION}/machine/m2")),
        (DNS, URI, URI),
        (DNS, URI, ("URI", f"bigmachine://{SESSION}/driver/m1")),
        (DNS, URI, ("DNS", "m2")),
        (DNS, URI, ("IP Address", "127.0.0.1")),
        (("DNS", "*"), URI),
    ],
)
def test_a_certificate_that_does_not_name_exactly_one_peer_names_nobody(names: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(AuthenticationError):
        peer_of(Shown(*names))


def test_a_certificate_of_the_authority_with_an_odd_name_names_nobody() -> None:
    now = time.time()
    certificate, key = AUTHORITY._issuer.leaf("c1", "https://example.org/", serves=False, now=now, until=now + DAY)
    odd = Identity(SESSION, Role.CLIENT, "c1", certificate, key, AUTHORITY.certificate)
    outcome = call(odd, MACHINE)
    assert isinstance(outcome.server, AuthenticationError)
    assert "https://example.org/" in str(outcome.server)


def test_before_the_handshake_nobody_is_known() -> None:
    tls = client_context(DRIVER).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=MACHINE.id)
    with pytest.raises(AuthenticationError, match="handshake not done"):
        peer_of(tls)


def test_a_peer_is_checked_for_session_role_and_id() -> None:
    shown = Shown(DNS, URI)
    peer = Peer(SESSION, Role.MACHINE, "m1")
    assert check_peer(shown, SESSION, [Role.MACHINE]) == peer
    assert check_peer(shown, SESSION, {Role.DRIVER, Role.MACHINE}, "m1") == peer
    with pytest.raises(AuthenticationError, match="session 99999999"):
        check_peer(shown, "99999999", [Role.MACHINE])
    with pytest.raises(AuthenticationError, match="machine m1 of session 12ab34cd is not agent or driver"):
        check_peer(shown, SESSION, [Role.DRIVER, Role.AGENT])
    with pytest.raises(AuthenticationError, match="not anybody"):
        check_peer(shown, SESSION, [])
    with pytest.raises(AuthenticationError, match="answered where m2 was called"):
        check_peer(shown, SESSION, [Role.MACHINE], "m2")


# --- the key's way into OpenSSL


@pytest.mark.parametrize("damage", ["key", "certificate", "authority"])
def test_an_identity_that_was_damaged_is_refused_without_showing_it(damage: str) -> None:
    whole = {"key": MACHINE.key, "certificate": MACHINE.certificate, "authority": MACHINE.authority}[damage]
    cut = whole[: len(whole) // 2] + b"\n-----END CERTIFICATE-----\n"
    broken = dataclasses.replace(MACHINE, **{damage: cut})  # type: ignore[arg-type]  # the three are bytes
    with pytest.raises(AuthenticationError, match="machine h1a2b3c-m3 of session 12ab34cd cannot be used") as caught:
        server_context(broken)
    assert MACHINE.key.splitlines()[1].decode() not in str(caught.value)


def test_a_key_of_somebody_else_is_refused() -> None:
    with pytest.raises(AuthenticationError, match="cannot be used"):
        client_context(dataclasses.replace(MACHINE, key=AGENT.key))


@pytest.mark.skipif(sys.platform != "linux", reason="memfd is Linux's")
def test_making_contexts_touches_no_file_and_leaves_no_descriptor() -> None:
    # In its own process, as an audit hook cannot be taken off again.
    source = str(Path(contexts_module.__file__).parents[2])
    program = """if True:
        import json, os, sys
        sys.path.insert(0, sys.argv[1])
        import bigmachine.trust as trust
        identity = trust.Identity.from_dict(json.load(sys.stdin))
        trust.server_context, trust.client_context  # imports
        before, touched = os.listdir("/proc/self/fd"), []
        def see(event, args):
            if event in ("os.mkdir", "os.rename", "os.remove", "tempfile.mkdtemp", "tempfile.mkstemp"):
                touched.append((event, args))
            elif event == "open" and isinstance(args[0], (str, bytes)):
                touched.append((event, args))
        sys.addaudithook(see)
        trust.server_context(identity), trust.client_context(identity)
        seen = list(touched)
        print(seen, os.listdir("/proc/self/fd") == before)
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, source],
        input=json.dumps(MACHINE.to_dict()),
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.stdout == "[] True\n", done.stderr


def test_without_memfd_the_key_is_for_a_moment_in_a_file_that_only_we_can_read() -> None:
    with contexts_module._readable_file(MACHINE) as path:
        file = Path(path)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert file.read_bytes() == MACHINE.certificate + MACHINE.key
    assert not file.exists()
    assert not file.parent.exists()


def test_the_file_is_gone_also_when_openssl_refuses_it() -> None:
    with pytest.raises(ssl.SSLError), contexts_module._readable_file(MACHINE) as path:
        raise ssl.SSLError
    assert not Path(path).parent.exists()


def _no_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)


def _no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc") and real(path, mode))


@pytest.mark.parametrize("absent", [_no_memfd, _no_proc])
def test_contexts_work_without_memfd_and_without_proc_and_leave_no_file(
    absent: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    absent(monkeypatch)
    with contexts_module._readable(MACHINE) as path:
        assert Path(path).is_relative_to(tmp_path)
    assert call(DRIVER, MACHINE) == Outcome(server=DRIVER.peer, client=MACHINE.peer)
    assert list(tmp_path.iterdir()) == []


def test_why_a_peer_was_refused_is_kept_for_the_event_loop_that_would_drop_it() -> None:
    # As event loops do it: by memory, so that an alert is away only once somebody sends it.
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(dataclasses.replace(STRANGER.issue(Role.DRIVER, "driver"), authority=MACHINE.authority))
    near = client.wrap_bio(to_client, to_server, server_hostname=MACHINE.id)
    far = server_context(MACHINE).wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        near.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        far.do_handshake()
    near.do_handshake()
    with pytest.raises(Refused) as refusal:
        far.do_handshake()
    assert to_client.read() == b""
    to_client.write(refusal.value.alert)
    with pytest.raises(ssl.SSLError, match="alert unknown ca"):
        near.read(1)


def test_forks_of_a_process_that_warmed_up_draw_different_random_bytes() -> None:
    program = """if True:
        import os, ssl
        from bigmachine.trust import warm_up
        warm_up()
        for _ in range(2):
            if os.fork() == 0:
                os.write(1, ssl.RAND_bytes(16).hex().encode() + b" ")
                os._exit(0)
            os.wait()
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=60)
    first, second = done.stdout.split()
    assert len(first) == len(second) == 32
    assert first != second


def test_a_ticket_of_one_fork_is_not_believed_by_another() -> None:
    """Forks of one blank context have the same key for tickets: one could else write them for all others."""
    blank = contexts_module.blank_server_context()
    client = client_context(DRIVER)
    first, written = visit_fork(blank, client, tickets=1)
    assert not first
    assert written is not None
    again, _ = visit_fork(blank, client, ticket=written)
    assert not again


def visit_fork(
    blank: ssl.SSLContext, client: ssl.SSLContext, *, tickets: int = 0, ticket: ssl.SSLSession | None = None
) -> tuple[bool, ssl.SSLSession | None]:
    """Call a machine that is a fork of this process; tell whether a session was resumed, and give its ticket."""
    near, far = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            near.close()
            far.settimeout(10)
            context = server_context(MACHINE, blank)
            context.num_tickets = tickets
            with context.wrap_socket(far, server_side=True) as tls:
                tls.sendall(b"!")
                tls.recv(1)
        finally:
            os._exit(0)
    far.close()
    near.settimeout(10)
    try:
        with client.wrap_socket(near, server_hostname=MACHINE.id, session=ticket) as tls:
            assert tls.recv(1) == b"!"
            return bool(tls.session_reused), tls.session
    finally:
        os.waitpid(pid, 0)
