"""What a stranger can do: nothing. What can be seen of a session's secrets from outside: nothing."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import bigmachine
from bigmachine import AuthenticationError, BigmachineError
from bigmachine.rpc import Link, TlsDialer
from bigmachine.rpc.wire import CALL, HELLO, RESULT, small_frame
from bigmachine.trust import Authority, Identity, Role, client_context, server_context
from tests.cluster.fault_services import Target
from tests.cluster.processes import LIMIT, Cluster, agent_pid, below, cluster_in, machine_pid, wait_for
from tests.cluster.programs import IMPORTABLE, RunProgram, WriteProgram
from tests.cluster.strangers import connected, hello, read_all, talk


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch"), 2) as cluster:
        yield cluster


# No byte is unpickled from a peer that has not proved who it is.


class Bomb:
    """Writes a file when it is unpickled, whoever does it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.mark), "w")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that is there once a bomb went off."""
    return tmp_path / "it-went-off"


def charge(mark: Path) -> bytes:
    """Make what a caller sends first, with a bomb wherever there is a pickle in it."""
    bomb = pickle.dumps(Bomb(mark), 5)
    return small_frame(HELLO, 0, 0, bomb) + small_frame(CALL, 0, 1, bomb)


def forger(identity: Identity) -> Identity:
    """Make an identity that has all the names of another, and the signature of a stranger."""
    return Authority(identity.session).issue(identity.role, identity.id)


def test_the_bomb_goes_off_for_those_who_belong_here(cluster: Cluster, called: str, mark: Path) -> None:
    # Otherwise the tests below would prove nothing.
    talk(cluster.place, called, charge(mark), cluster.session._identity)
    wait_for(mark.exists, "the bomb went off")


@pytest.mark.parametrize("what", ["no TLS", "after a greeting", "nobody", "a forger"])
def test_nothing_from_a_stranger_is_unpickled(cluster: Cluster, called: str, mark: Path, what: str) -> None:
    with cluster.unharmed():
        if what in ("no TLS", "after a greeting"):
            with connected(cluster.place) as sock:
                sock.sendall((hello(called) if what == "after a greeting" else b"") + charge(mark))
                with contextlib.suppress(ConnectionError):
                    read_all(sock)
        else:
            talk(cluster.place, called, charge(mark), None if what == "nobody" else forger(cluster.session._identity))
    assert not mark.exists()


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_nothing_that_comes_by_http_is_unpickled(cluster: Cluster, called: str, mark: Path, alpn: str) -> None:
    body = charge(mark)
    head = f"POST /bigrpc/Target.echo HTTP/1.1\r\nHost: {called}\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/x-pickle\r\nConnection: close\r\n\r\n"
    identity = cluster.session._identity
    with cluster.unharmed():
        answer = talk(cluster.place, called, head.encode() + body if alpn != "h2" else body, identity, alpn)
    if alpn == "http/1.1":
        assert isinstance(answer, bytes)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["genuine", "forged", "another machine's"])
def test_nothing_from_a_false_machine_is_unpickled(cluster: Cluster, mark: Path, kind: str) -> None:
    session = cluster.session
    assert session._authority is not None
    name = "h0000ff-m1"
    identity = session._authority.issue(Role.MACHINE, name if kind != "another machine's" else "h0000ff-m2")
    bomb = pickle.dumps(Bomb(mark), 5)
    frames = b"".join(small_frame(RESULT, 0, ident, bomb) for ident in range(1, 5))
    with serving(forger(identity) if kind == "forged" else identity, frames) as place:
        dialer = TlsDialer(*place, name, identity.session, (Role.MACHINE,), client_context(session._identity))
        link = Link(session._reactor, dialer, name=name)
        try:
            if kind == "genuine":  # the bomb is one
                link.submit("Target.echo", (1,), {}, LIMIT).result(LIMIT).close()
                assert mark.exists()
                return
            with pytest.raises(AuthenticationError, match="could not prove who it is"):
                link.submit("Target.echo", (1,), {}, LIMIT).result(LIMIT)
            assert not mark.exists()
        finally:
            link.close(ConnectionError("done"))


class serving:  # noqa: N801 (used like a function)
    """Have somebody at a port who shakes hands as `identity` and then sends `data`."""

    def __init__(self, identity: Identity, data: bytes) -> None:
        self._context = server_context(identity)
        self._data = data
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> tuple[str, int]:
        self._thread.start()
        place: tuple[str, int] = self._socket.getsockname()
        return place

    def _serve(self) -> None:
        sock, _ = self._socket.accept()
        sock.settimeout(LIMIT)
        try:
            with sock, self._context.wrap_socket(sock, server_side=True) as tls:
                tls.recv(65536)
                tls.sendall(self._data)
                read_all(tls)
        except OSError:
            return

    def __exit__(self, *exc: object) -> None:
        self._thread.join(LIMIT)
        self._socket.close()


# Secrets.

#: Starts machines in both ways, uses everything that handles secrets, and says what can be seen of it from outside.
SHOW_ALL = """
import json, logging, os, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
logging.getLogger("asyncio").setLevel(logging.DEBUG)
import bigmachine
from bigmachine.trust import Authority
from bigmachine.agent.processes.tree import look_at
from tests.cluster.fault_services import PlainInit, Target
from tests.cluster.processes import below

os.umask(0)
folder = sys.argv[1]
issue, identities = Authority.issue, []
def record(self, *args, **kwargs):
    identities.append(issue(self, *args, **kwargs))
    return identities[-1]
Authority.issue = record

def look():
    seen = {}
    for pid in (os.getpid(), *below(os.getpid())):
        texts = [open(f"/proc/{pid}/{name}", "rb").read() for name in ("cmdline", "environ")]
        seen[pid] = [text.decode(errors="replace") for text in texts]
    return seen

with bigmachine.start("local") as session:
    machines = session.start(1, services=[Target()])
    machines += session.start(1, services=[Target()], environ={"PYTHONHASHSEED": "7"})  # spawned, not forked
    credentials = session.write_credentials(os.path.join(folder, "credentials"))
    for machine in machines:
        machine.call(Target.echo, [session.machines(), identities[0]])
        try:
            machine.call(Target.add, identities[0], identities[0])
        except TypeError as error:
            logging.exception("an error with locals %r", error)
    try:
        session.start(1, services=[PlainInit()])[0].wait()
    except bigmachine.MachineStopped:
        logging.exception("as expected")
    print(session, machines, identities, file=sys.stderr)
    seen = look() | {machine.name: machine.call(Target.environment) for machine in machines}
with open(os.path.join(folder, "seen.json"), "w") as file:
    json.dump({"seen": seen, "keys": [identity.key.decode() for identity in identities]}, file)
"""


def test_no_secret_is_in_a_command_an_environment_a_log_or_a_file(
    run_program: RunProgram, write: WriteProgram, tmp_path: Path
) -> None:
    scratch, home = tmp_path / "scratch", tmp_path / "home"
    scratch.mkdir()
    home.mkdir()
    environ = {"TMPDIR": str(scratch), "HOME": str(home), "PYTHONPATH": f"{IMPORTABLE}:{Path(__file__).parents[2]}"}
    environ |= {"XDG_RUNTIME_DIR": "", "XDG_CACHE_HOME": ""}  # whatever this user has: the register is below `home`
    outcome = run_program(write("show.py", SHOW_ALL), tmp_path, environ=environ)
    told = json.loads((tmp_path / "seen.json").read_text())
    assert len(told["seen"]) >= 8  # driver, agent, zygote, undertaker, two machines, and what these pass on
    assert len(told["keys"]) == 6  # driver, agent, three machines, a client
    pieces = [line for key in told["keys"] for line in key.splitlines() if not line.startswith("-")]
    assert "keepalive" in outcome.err or "DEBUG" in outcome.err
    for where, text in [("the log", outcome.err), ("the output", outcome.out), *told["seen"].items()]:
        shown = json.dumps(text)
        assert "PRIVATE KEY" not in shown, where
        assert [piece for piece in pieces if piece in shown] == [], where
    files = {path: path.stat() for path in tmp_path.rglob("*") if path.name not in ("seen.json", "show.py")}
    named = {path.name: stat.S_IMODE(status.st_mode) for path, status in files.items()}
    credentials = {"ca.pem": 0o600, "certificate.pem": 0o600, "key.pem": 0o600}
    (record,) = home.glob(".cache/bigmachine/sessions/*.json")  # what `bigmachine ls` shows of it
    assert [piece for piece in pieces if piece in record.read_text()] == []
    register = {".cache": 0o700, "bigmachine": 0o700, "sessions": 0o700, record.name: 0o600}
    assert named == {"scratch": 0o755, "home": 0o755, "credentials": 0o700, **credentials, **register}


#: Puts a layer over every folder where a program may put files that it does not talk about, runs it, lists the layers.
IN_A_LAYER = r"""
mount -t tmpfs none /mnt || exit 77
for place in /tmp /var/tmp /dev/shm /run /root; do
    here=/mnt/$(echo $place | tr / _)
    mkdir -p $here/up $here/work
    mount -t overlay -o lowerdir=$place,upperdir=$here/up,workdir=$here/work none $place || exit 77
done
cd /
mkdir -m 700 /run/its-own && export XDG_RUNTIME_DIR=/run/its-own
"$0" "$@" || exit
find /mnt/*/up -not -type d
"""

LIST_FILES = """
import os, sys
import bigmachine

class Probe:
    def die(self):
        os._exit(3)
    def big(self, data):
        return data

with bigmachine.start("local") as session:
    machines = session.start(3, services=[Probe()])
    assert len(machines[0].call(Probe.big, bytes(32 << 20))) == 32 << 20
    try:
        machines[1].call(Probe.die)
    except bigmachine.MachineStopped:
        open("/tmp/mark", "w").close()
    if "kill" in sys.argv:
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["return", "kill"])
def test_a_session_leaves_no_file_anywhere_but_its_record(run_program: RunProgram, end: str) -> None:
    shell = ["--mount", "/bin/sh", "-c", IN_A_LAYER]
    if subprocess.run(["unshare", *shell, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace of its own, with layers, is to be had here")
    python = [sys.executable, "-B", "-c", LIST_FILES, end]
    if end == "kill":
        python = ["/bin/sh", "-c", '"$0" "$@"; sleep 0.5', *python]
    outcome = run_program(*shell, *python, executable="unshare", cwd=Path("/"))
    register = "/mnt/_run/up/its-own/bigmachine/"
    left = outcome.out.split()
    assert [path for path in left if not path.startswith(register)] == ["/mnt/_tmp/up/mark"]
    # What `bigmachine ls` says of it later; who looks takes away the socket of one that was killed.
    kept = sorted(Path(path).suffix for path in left if path.startswith(register))
    assert kept == ([".json", ".sock"] if end == "kill" else [".json"])


def holds(pid: int, secrets: list[bytes]) -> list[bool]:
    """Tell which of these byte strings are in a process's memory."""
    found = [False] * len(secrets)
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            place = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if place is None or "[v" in line:
                continue
            start, end = (int(number, 16) for number in place.groups())
            memory.seek(start)
            try:
                data = memory.read(end - start)
            except OSError:
                continue
            found = [before or secret in data for before, secret in zip(found, secrets, strict=True)]
    return found


def scalar(pem: bytes) -> bytes:
    """Return a private key as OpenSSL has it in memory: the words of the number, the lowest first."""
    key = load_pem_private_key(pem, None)
    return key.private_numbers().private_value.to_bytes(32, "little")  # type: ignore[union-attr]  # an EC key


def test_keys_are_where_they_belong_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    identities: dict[str, Identity] = {}
    issue: Callable[..., Identity] = Authority.issue

    def record(self: Authority, role: Role, name: str, *args: float) -> Identity:
        identities[name] = issue(self, role, name, *args)
        return identities[name]

    monkeypatch.setattr(Authority, "issue", record)
    with bigmachine.start("local") as session:
        machines = session.start(2, services=[Target()])
        for machine in machines:
            machine.wait(timeout=LIMIT)
        pids = {machine.name: machine_pid(machine) for machine in machines}
        assert session._authority is not None
        authority = session._authority._issuer._key.private_numbers().private_value.to_bytes(32, "little")
        keys = {name.rpartition("-")[2]: scalar(identity.key) for name, identity in identities.items()}
        agent = agent_pid(machines[0])
        secrets = [authority, keys["driver"], keys["m1"], keys["m2"]]
        try:
            assert holds(os.getpid(), secrets)[:2] == [True, True]
        except PermissionError:
            pytest.skip("this system does not let a process read its own memory")
        assert holds(pids["m1"], secrets) == [False, False, True, False]
        assert holds(pids["m2"], secrets) == [False, False, False, True]
        others = set(below(agent)) - set(pids.values())
        assert len(others) >= 2
        for pid in (agent, *others):  # the zygotes, and the undertaker
            assert holds(pid, secrets)[:2] == [False, False]
        for pid in others:
            assert holds(pid, secrets) == [False] * 4


def test_what_a_machine_starts_inherits_no_connection(cluster: Cluster) -> None:
    for machine in cluster.machines:
        files = machine.call(Target.inherited)
        assert len(files) == 3
        assert files[0] == os.devnull
        assert all(file.startswith("pipe:") for file in files[1:])


def test_an_authority_cannot_be_sent(cluster: Cluster) -> None:
    for secret in (cluster.session, cluster.session._authority):
        with pytest.raises((BigmachineError, TypeError)):
            cluster.machine.call(Target.echo, secret)
