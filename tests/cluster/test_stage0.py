"""Stage 0 on every Python of this computer: whom it listens to, what it takes in, and how it ends."""

from __future__ import annotations

import dataclasses
import http.server
import os
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from bigmachine.agent.bare.client import _send
from bigmachine.agent.bare.delivery import stage0_command, stage0_input, user_data
from bigmachine.errors import AuthenticationError, ImageError, NetworkError, ProvisionError
from bigmachine.image.bundles.bundle import Bundle, Part
from bigmachine.trust import Authority, Role, stage0_context
from tests.cluster.bare_hosts import (
    AUTHORITY,
    DRIVER,
    HOST_ID,
    PATIENCE,
    SESSION,
    Running,
    bare_host,
    odd_bundle,
    orders,
    pythons,
    read_line,
    small_bundle,
    started,
)

#: A program that shows what stage 0 leaves to what it becomes.
_HEIR = """if True:
    import os, socket, sys
    orders = os.fdopen(61).read()
    connection = socket.socket(fileno=60).accept()[0]
    connection.sendall(orders.encode() + b" " + str(os.getpid()).encode())
    connection.close()
    os.read(0, 1)
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Running]:
    with bare_host(sys.executable, tmp_path / "cache") as running:
        yield running


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return small_bundle(
        tmp_path / "driver", [Part("bin/run", b"#!/bin/sh\n", executable=True), Part("a/b.txt", b"hello")]
    )


@pytest.mark.parametrize("python", pythons())
def test_on_each_python_it_takes_a_bundle_in_and_becomes_what_it_is_told(python: str, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "driver", [Part("a/b.txt", b"hello"), Part("a/l", link="b.txt")])
    with bare_host(python, tmp_path / "cache") as running, running.client() as client:
        facts = client.info()
        assert (facts.cache, facts.uid) == (str(tmp_path / "cache"), os.getuid())
        assert (facts.hostname, facts.machine) == (socket.gethostname(), os.uname().machine)
        assert min(facts.free, facts.cpus) > 0
        assert client.have([bundle]) == frozenset()
        client.put(bundle)
        assert client.have([bundle]) == {bundle.name}
        assert Path(facts.place(bundle), "a/l").read_text() == "hello"
        client.exec([python, "-ISc", _HEIR], '"a secret"')
        with socket.create_connection(("127.0.0.1", running.port), PATIENCE) as heir:
            assert heir.recv(100).decode() == f'"a secret" {running.process.pid}'


def test_with_its_certificates_it_is_smaller_than_8_kb_however_it_is_sent(tmp_path: Path) -> None:
    told = orders(tmp_path / "cache", last=("systemctl", "poweroff", "--force"))
    assert len(stage0_input(told)) + len(stage0_command("python3")) < 8000
    assert len(user_data(told)) < 8000


def test_as_user_data_it_runs_by_itself(tmp_path: Path) -> None:
    script = tmp_path / "user-data"
    script.write_text(user_data(orders(tmp_path / "cache", tethered=False)))
    with started([sys.executable, str(script)]) as process:
        running = Running(process, tmp_path / "cache", read_line(process)["port"], DRIVER)
        running.let_go()
        with running.client() as client:
            assert client.info().cache == str(tmp_path / "cache")
        process.kill()  # it is not tethered


# whom it listens to


def ask(context: ssl.SSLContext, port: int) -> bytes:
    """Try to ask, as a stranger would, with no care for who answers."""
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    with sock, context.wrap_socket(sock, server_hostname=HOST_ID) as link:
        _send(link, {"verb": "info", "modules": []})
        return link.recv(1)


def careless() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["bigmachine-stage0/1"])
    return context


def test_who_has_no_certificate_gets_no_answer(host: Running) -> None:
    with pytest.raises(OSError, match=r"(?i)certificate required|reset|eof"):
        ask(careless(), host.port)


@pytest.mark.parametrize("role", [Role.MACHINE, Role.AGENT, Role.CLIENT, Role.BOOTSTRAP])
def test_who_is_not_the_driver_gets_no_answer(host: Running, role: Role) -> None:
    assert ask(stage0_context(AUTHORITY.issue(role, "x1")), host.port) == b""


def test_the_driver_of_another_session_gets_no_answer(host: Running) -> None:
    other = Authority(SESSION).issue(Role.DRIVER, "driver")  # of the same name, but not of the same authority
    context = careless()
    certificate = host.cache / "pem"
    certificate.write_bytes(other.certificate + other.key)
    context.load_cert_chain(certificate)
    with pytest.raises(OSError, match=r"(?i)unknown ca|reset|eof|verify"):
        ask(context, host.port)
    with host.client(driver=other) as client, pytest.raises(AuthenticationError, match=r"testhost: asking what it is"):
        client.info()


def test_the_driver_takes_nobody_for_the_host_who_is_not(tmp_path: Path) -> None:
    agent = AUTHORITY.issue(Role.AGENT, HOST_ID)
    with bare_host(sys.executable, tmp_path / "cache", identity=agent) as running:
        client = running.client()
        with client, pytest.raises(AuthenticationError, match=r"is not bootstrap"):
            client.info()


def test_idle_strangers_do_not_keep_the_driver_out(host: Running) -> None:
    strangers = [socket.create_connection(("127.0.0.1", host.port), PATIENCE) for _ in range(60)]
    try:
        with host.client() as client:
            begin = time.monotonic()
            client.info()
            assert time.monotonic() - begin < 5
        strangers[0].settimeout(5)
        assert strangers[0].recv(1) == b""  # the oldest gave way
    finally:
        for stranger in strangers:
            stranger.close()


def test_its_key_is_in_no_argument_environment_or_file(host: Running) -> None:
    line = host.identity.key.splitlines()[1]
    process = Path("/proc", str(host.process.pid))
    for name in ("cmdline", "environ"):
        assert line not in (process / name).read_bytes()
    assert host.kept() == []


# what it takes in


def test_what_is_not_what_it_says_is_refused(host: Running, bundle: Bundle) -> None:
    with host.client() as client:
        with pytest.raises(ImageError, match=r"testhost: sending it kits/.*SHA-256"):
            client.put(dataclasses.replace(bundle, sha256="0" * 64))
        assert client.have([bundle]) == frozenset()
        client.put(bundle)  # and the connection is still good


def test_modes_are_the_owners_alone_and_never_setuid(host: Running, tmp_path: Path) -> None:
    member = tarfile.TarInfo("bin/run")
    member.mode = 0o6777
    odd = odd_bundle(tmp_path, [(member, b"#!/bin/sh\n")])
    with host.client() as client:
        client.put(odd)
        path = Path(client.info().place(odd), "bin/run")
    assert path.stat().st_mode & 0o7777 == 0o500


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "members",
    [
        [(_member("../outside"), b"x")],
        [(_member("/tmp/outside"), b"x")],
        [(_member("a/../../outside"), b"x")],
        [(_member("link", tarfile.SYMTYPE, "/etc"), b"")],
        [(_member("a/link", tarfile.SYMTYPE, "../../outside"), b"")],
        [(_member("a/x"), b"x"), (_member("here", tarfile.SYMTYPE, "a"), b""), (_member("here/b"), b"x")],
        [(_member("a/b/top", tarfile.SYMTYPE, "../.."), b""), (_member("l", tarfile.SYMTYPE, "a/b/top/.."), b"")],
        [(_member("a"), b"x"), (_member("hard", tarfile.LNKTYPE, "a"), b"")],
        [(_member("pipe", tarfile.FIFOTYPE), b"")],
        [(_member("large"), bytes((1 << 20) + 1))],
    ],
    ids=[
        "up",
        "absolute",
        "inner-up",
        "link-absolute",
        "link-up",
        "through-link",
        "up-behind-link",
        "hard-link",
        "pipe",
        "bomb",
    ],
)
def test_what_would_not_lie_inside_the_bundle_is_refused(
    host: Running, tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    with host.client() as client, pytest.raises(ImageError, match=r"testhost: sending it"):
        client.put(odd_bundle(tmp_path, members))
    assert host.kept() == []
    assert not list(tmp_path.rglob("outside"))


def test_a_bundle_that_breaks_off_leaves_nothing_and_can_be_sent_again(host: Running, bundle: Bundle) -> None:
    client = host.client()
    link = client._connected()
    request = {"verb": "put", "id": bundle.name, "sha256": bundle.sha256, "size": 1 << 20, "unpacked": 1 << 20}
    _send(link, request)
    link.sendall(b"some bytes")
    client.close()
    assert host.kept() == []
    with host.client() as again:
        again.put(bundle)
        assert again.have([bundle]) == {bundle.name}
    assert [path for path in host.kept() if bundle.name not in path] == []


def test_a_connection_that_broke_is_made_anew_once(host: Running) -> None:
    with host.client() as client:
        client.info()
        assert client._link is not None
        socket.socket.shutdown(client._link, socket.SHUT_RDWR)
        assert client.info().cache


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    mount = f'mount -t tmpfs -o size=1m,mode=700 tmpfs {cache} && exec "$@"'
    large = small_bundle(tmp_path / "driver", [Part("noise", os.urandom(3 << 20))])
    with bare_host(sys.executable, cache, wrap=["unshare", "-m", "sh", "-c", mount, "sh"]) as running:
        client = running.client()
        with client, pytest.raises(ImageError, match=r"testhost: sending it .*No space left.*make room there"):
            client.put(large)
        with client:
            client.put(small_bundle(tmp_path / "driver"))


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_cache_where_others_may_write_is_not_used(tmp_path: Path, mode: int) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(mode)
    with started(["sh", "-c", stage0_command(sys.executable)]) as process:
        assert process.stdin is not None
        process.stdin.write(stage0_input(orders(cache)))
        assert "others may write there" in read_line(process)["error"]
        assert process.wait(PATIENCE) == 1


def test_what_cannot_be_run_is_said_and_can_be_tried_again(host: Running) -> None:
    with host.client() as client:
        with pytest.raises(ProvisionError, match=r"testhost: starting its agent .*/no/such/python"):
            client.exec(["/no/such/python"], "{}")
        broken = host.cache / "broken"
        broken.write_text("neither a script nor a program")
        broken.chmod(0o700)
        with pytest.raises(ProvisionError, match=r"testhost: starting its agent .*[Ee]xec format"):
            client.exec([str(broken)], "{}")
        assert client.info().cache


# how it ends


def _last(tmp_path: Path) -> tuple[str, ...]:
    return ("touch", str(tmp_path / "ended"))


def test_when_nobody_calls_it_ends_the_host(tmp_path: Path) -> None:
    begin = time.monotonic()
    with bare_host(sys.executable, tmp_path / "cache", first_contact=0.5, last=_last(tmp_path)) as running:
        with pytest.raises(OSError, match=r"(?i)certificate required|reset|eof"):
            ask(careless(), running.port)  # a stranger's call does not count
        assert running.process.wait(PATIENCE) == 0
    assert time.monotonic() - begin >= 0.5
    assert (tmp_path / "ended").exists()


def test_a_driver_that_calls_keeps_it_waiting(tmp_path: Path) -> None:
    with bare_host(sys.executable, tmp_path / "cache", first_contact=1.0) as running:
        for _ in range(5):
            with running.client() as client:
                client.info()
            time.sleep(0.3)
        assert running.process.poll() is None


@pytest.mark.parametrize("how", ["tether", "SIGTERM", "SIGINT", "SIGHUP"])
def test_it_ends_with_its_driver_or_by_a_signal_and_ends_the_host(tmp_path: Path, how: str) -> None:
    with bare_host(sys.executable, tmp_path / "cache", last=_last(tmp_path)) as running:
        if how == "tether":
            running.let_go()
        else:
            running.process.send_signal(signal.Signals[how])
        running.process.wait(5)
    assert (tmp_path / "ended").exists()


def test_a_port_that_is_taken_is_named(host: Running, tmp_path: Path) -> None:
    with started(["sh", "-c", stage0_command(sys.executable)]) as process:
        assert process.stdin is not None
        process.stdin.write(stage0_input(orders(tmp_path / "other", listen=("127.0.0.1", host.port))))
        assert "in use" in read_line(process)["error"]


def test_where_nothing_listens_the_error_says_so(host: Running) -> None:
    host.process.kill()
    host.process.wait(PATIENCE)
    with host.client() as client, pytest.raises(NetworkError, match=r"testhost: asking what it is: .*refused"):
        client.info()


def test_a_driver_that_dies_before_its_orders_leaves_nothing() -> None:
    done = subprocess.run(["sh", "-c", stage0_command(sys.executable)], input=b"", check=False, timeout=PATIENCE)
    assert done.returncode == 1


class Depot:
    """A depot that has one thing, served by HTTP, or says so."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, sha256: str, content: Callable[[], bytes]) -> str:
        return self._url


@pytest.mark.parametrize("python", pythons())
def test_a_bundle_may_be_fetched_from_elsewhere_and_is_sent_if_that_fails(python: str, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path)
    (tmp_path / "wrong").write_bytes(bundle.path.read_bytes()[:-1])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        there = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            with bare_host(python, tmp_path / "cache") as running, running.client() as client:
                for url in ("", f"{there}/none", f"{there}/wrong", "http://127.0.0.1:1/x", "nonsense"):
                    assert not client.get(bundle, Depot(url))
                    assert client.have([bundle]) == frozenset()
                assert client.get(bundle, Depot(f"{there}/{bundle.path.relative_to(tmp_path)}"))
                assert client.have([bundle]) == {bundle.name}
                assert client.sent == 0
        finally:
            server.shutdown()
            thread.join()
