"""From a bare host to an agent with an identity of its own: through stage 0, and through a shell without a Python."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bigmachine.agent.bare.client import BareHost, Raised, bring_up, tcp
from bigmachine.agent.bare.delivery import NoPython, bare_shell_script, stage0_input
from bigmachine.agent.bootstrap import Clocks
from bigmachine.agent.identity import give_identity
from bigmachine.errors import AuthenticationError, ImageError, InvalidCall
from bigmachine.image.bundles import runtime
from bigmachine.image.bundles.bundle import Bundle
from bigmachine.image.bundles.runtime import interpreter_bundle
from bigmachine.rpc import Codec, Link, Reactor, TlsDialer
from bigmachine.trust import Role, client_context, server_context
from tests.cluster.bare_hosts import (
    AUTHORITY,
    DRIVER,
    HOST_ID,
    PATIENCE,
    SESSION,
    Running,
    bare_host,
    orders,
    pythons,
    read_line,
    read_raw_line,
    started,
)

CLOCKS = Clocks(lease=PATIENCE, first_contact=PATIENCE)
#: What a login finds on the smallest of hosts.
TOOLS = ("sh", "head", "id", "uname", "mkdir", "mv", "rm", "ln", "chmod", "tr", "cat")


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver's cache, one for all tests: packing takes seconds."""
    return tmp_path_factory.mktemp("packed")


@pytest.fixture(scope="session")
def interpreter(packed: Path) -> Bundle:
    return interpreter_bundle(cache=packed)


def raise_agent(running: Running, packed: Path) -> Raised:
    with running.client() as client:
        raised = bring_up(client, running.identity, CLOCKS, tethered=True, cache=packed)
    assert running.line() == {"port": running.port}
    return raised


def on_loop(work: Callable[[Reactor], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await work(Reactor(asyncio.get_running_loop()))
            # Connections say farewell before they close: until only the loop's own pipe is left.
            watched = getattr(asyncio.get_running_loop(), "_selector").get_map()  # noqa: B009 (it has no type)
            while len(watched) > 1:  # noqa: ASYNC110 (transports have no event for it)
                await asyncio.sleep(0.002)

    asyncio.run(main())


def way(port: int, role: Role) -> TlsDialer:
    return TlsDialer("127.0.0.1", port, HOST_ID, SESSION, (role,), client_context(DRIVER))


@contextlib.asynccontextmanager
async def linked(reactor: Reactor, port: int, role: Role) -> AsyncIterator[Link]:
    link = Link(reactor, way(port, role), codec=Codec(machine=HOST_ID), name="agent")
    try:
        await link.connect()
        yield link
    finally:
        link.close(InvalidCall("the test is over"))


def test_a_host_with_a_like_python_runs_the_agent_on_its_own(tmp_path: Path, packed: Path) -> None:
    with bare_host(sys.executable, tmp_path / "cache") as running:
        raised = raise_agent(running, packed)
        assert Path(raised.python).samefile(sys.executable)
        assert not (running.cache / "v1" / "interpreters").exists()
        assert 0 < raised.sent < 6 << 20
        running.let_go()
        assert running.process.wait(PATIENCE) == 0
    with bare_host(sys.executable, tmp_path / "cache") as running:
        assert raise_agent(running, packed).sent == 0


def test_a_host_with_another_python_is_sent_the_drivers(tmp_path: Path, packed: Path, interpreter: Bundle) -> None:
    others = [python for python in pythons() if f"{sys.version_info.major}.{sys.version_info.minor}." not in python]
    if not others:
        pytest.skip("there is no Python of another version here")
    with bare_host(others[0], tmp_path / "cache") as running:
        raised = raise_agent(running, packed)
        assert raised.python.startswith(str(running.cache / "v1" / "interpreters"))
        assert (raised.platform.python, raised.platform.minor) == (
            sys.version.split()[0],
            f"{sys.version_info.major}.{sys.version_info.minor}",
        )
        assert Path(raised.ca_file).stat().st_size > 100_000
        assert Path(os.readlink(f"/proc/{running.process.pid}/exe")).is_relative_to(running.cache)

        async def swap(reactor: Reactor) -> None:
            await give_identity(reactor, way(running.port, Role.BOOTSTRAP), HOST_ID, AUTHORITY.sign)

        on_loop(swap)  # so that interpreter makes keys, too


def test_a_host_whose_c_library_is_too_old_is_told_from_the_start(
    tmp_path: Path, packed: Path, interpreter: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bare_host(sys.executable, tmp_path / "cache") as running, running.client() as client:
        facts = client.info()
        old = replace(facts, lacks=("_ssl",))
        for libc, why in (
            ("glibc 2.17", r"testhost has glibc 2.17, and the driver's Python needs glibc 2\."),
            ("musl", "musl"),
        ):
            told = replace(old, libc=libc)
            monkeypatch.setattr(client, "info", lambda told=told: told)
            with pytest.raises(ImageError, match=why):
                bring_up(client, running.identity, CLOCKS, tethered=True, cache=packed)
        assert client.sent == 0


def test_what_is_dialled_before_the_agent_is_up_waits_for_it(tmp_path: Path, packed: Path) -> None:
    with bare_host(sys.executable, tmp_path / "cache") as running:
        with running.client() as client:
            bring_up(client, running.identity, CLOCKS, tethered=True, cache=packed)

        async def work(reactor: Reactor) -> None:  # at once, with no look at its report
            async with linked(reactor, running.port, Role.BOOTSTRAP) as link:
                assert await link.submit("Agent.certificate_request", (), {}, PATIENCE)

        on_loop(work)


# the identity


def test_after_the_exchange_the_agent_is_known_by_its_own_key_alone(tmp_path: Path, packed: Path) -> None:
    with bare_host(sys.executable, tmp_path / "cache") as running:
        raise_agent(running, packed)

        async def work(reactor: Reactor) -> None:
            with pytest.raises(AuthenticationError, match="is not agent"):
                async with linked(reactor, running.port, Role.AGENT):
                    pass
            await give_identity(reactor, way(running.port, Role.BOOTSTRAP), HOST_ID, AUTHORITY.sign)
            with pytest.raises(AuthenticationError, match="is not bootstrap"):
                async with linked(reactor, running.port, Role.BOOTSTRAP):
                    pass
            async with linked(reactor, running.port, Role.AGENT) as link:
                for method, args in (("certificate_request", ()), ("adopt", (b"",))):
                    with pytest.raises(InvalidCall, match="has an identity of its own already"):
                        await link.submit(f"Agent.{method}", args, {}, PATIENCE)

        on_loop(work)


def test_whoever_holds_the_first_key_cannot_be_the_agent(tmp_path: Path) -> None:
    thief = server_context(AUTHORITY.issue(Role.BOOTSTRAP, HOST_ID))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def pose() -> None:
            connection = listening.accept()[0]
            with connection, contextlib.suppress(OSError), thief.wrap_socket(connection, server_side=True) as link:
                link.recv(1)

        posing = threading.Thread(target=pose)
        posing.start()

        async def work(reactor: Reactor) -> None:
            with pytest.raises(AuthenticationError, match="is not agent"):
                async with linked(reactor, listening.getsockname()[1], Role.AGENT):
                    pass

        on_loop(work)
        posing.join(PATIENCE)


def test_a_certificate_that_was_not_asked_for_or_is_anothers_is_not_adopted(tmp_path: Path, packed: Path) -> None:
    with bare_host(sys.executable, tmp_path / "cache") as running:
        raise_agent(running, packed)
        others = AUTHORITY.issue(Role.AGENT, HOST_ID).certificate

        async def work(reactor: Reactor) -> None:
            async with linked(reactor, running.port, Role.BOOTSTRAP) as link:
                with pytest.raises(InvalidCall, match="not asked for"):
                    await link.submit("Agent.adopt", (others,), {}, PATIENCE)
                first = await link.submit("Agent.certificate_request", (), {}, PATIENCE)
                with pytest.raises(AuthenticationError, match="cannot be used"):
                    await link.submit("Agent.adopt", (others,), {}, PATIENCE)
                assert await link.submit("Agent.certificate_request", (), {}, PATIENCE) == first

        on_loop(work)


# without a Python


def login(tmp_path: Path, *tools: str) -> dict[str, str]:
    """Make the environment of a login that has only these programs."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    for tool in tools:
        place = shutil.which(tool)
        if place is not None and not (programs / tool).exists():
            (programs / tool).symlink_to(place)
    return {"PATH": str(programs), "HOME": str(tmp_path / "home")}


@contextlib.contextmanager
def logged_in(environ: dict[str, str], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], bytes]]:
    said = stage0_input(orders(tmp_path / "cache"))
    with started(["/bin/sh", "-c", bare_shell_script(len(said))], env=environ) as process:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a host that can take nothing in has said so, and ended
            process.stdin.write(said)
        yield process, said


@pytest.mark.parametrize("way", ["tar", "plain"])
def test_a_host_without_python_is_brought_one_and_keeps_it(tmp_path: Path, interpreter: Bundle, way: str) -> None:
    environ = login(tmp_path, *TOOLS, "getconf", *(["tar", "gzip"] if way == "tar" else []))
    for is_kept in (False, True):
        with logged_in(environ, tmp_path) as (process, said):
            assert process.stdin is not None
            bare = NoPython.parse(read_raw_line(process))
            assert bare is not None
            assert (bare.system, bare.machine, bare.way) == (os.uname().sysname, os.uname().machine, way)
            assert (interpreter.id in bare.kept) is is_kept
            for piece in bare.answer(interpreter):
                process.stdin.write(piece)
            process.stdin.write(said)
            report = read_line(process)
            client = BareHost(tcp("127.0.0.1", report["port"]), DRIVER, HOST_ID, host="bare")
            with client:
                facts = client.info()
            assert facts.python == sys.version.split()[0]
            assert (facts.lacks, facts.openssl) == ((), True)
            assert facts.executable.startswith(environ["HOME"])
    assert not list(Path(environ["HOME"]).rglob("*.part-*"))


def test_an_interpreter_that_breaks_off_is_not_kept(tmp_path: Path, interpreter: Bundle) -> None:
    environ = login(tmp_path, *TOOLS, "tar", "gzip")
    with logged_in(environ, tmp_path) as (process, _):
        assert process.stdin is not None
        bare = NoPython.parse(read_raw_line(process))
        assert bare is not None
        pieces = bare.answer(interpreter)
        process.stdin.write(next(pieces) + next(pieces))
        process.stdin.close()
        assert "could not be unpacked" in read_line(process)["error"]
        assert process.wait(PATIENCE) == 1
    assert list(Path(environ["HOME"], ".cache/bigmachine/v1/interpreters").iterdir()) == []


def test_a_python_that_does_not_work_is_passed_over(tmp_path: Path) -> None:
    environ = login(tmp_path, *TOOLS)
    broken = tmp_path / "bin" / "python3"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o700)
    works = tmp_path / "bin" / "python3.9"
    works.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    works.chmod(0o700)
    with logged_in(environ, tmp_path) as (process, _):
        assert read_line(process)["stage"] == 0


def test_a_host_that_cannot_take_a_python_in_says_so(tmp_path: Path) -> None:
    with logged_in(login(tmp_path, "sh"), tmp_path) as (process, _):
        assert "neither Python 3.6 with ssl nor head" in read_line(process)["error"]


# the interpreter


@pytest.mark.skipif(os.getuid() != 0, reason="a root of its own takes root")
def test_the_interpreter_needs_nothing_but_the_c_library_and_its_shell(tmp_path: Path, interpreter: Bundle) -> None:
    root = tmp_path / "root"
    loader = subprocess.run(["ldd", "/bin/sh"], capture_output=True, check=True, text=True).stdout.split()
    places = {word for word in loader if word.startswith("/")}
    folder = os.path.dirname(next(place for place in places if "libc.so" in place))
    libraries = ("libc", "libm", "libdl", "libpthread", "librt", "libutil", "libresolv")
    for place in {
        "/bin/sh",
        *places,
        *(f"{folder}/{name}.so.{number}" for name in libraries for number in (0, 1, 2, 6)),
    }:
        if os.path.exists(place):
            os.makedirs(f"{root}{os.path.dirname(place)}", exist_ok=True)
            shutil.copy(place, f"{root}{place}")
    for name in ("opt", "proc", "tmp"):
        (root / name).mkdir()
    subprocess.run(["tar", "-xzf", interpreter.path, "-C", root / "opt"], check=True)
    numpy = Path(pytest.importorskip("numpy").__file__).parent
    for wheel in (numpy, numpy.with_name("numpy.libs")):
        if wheel.exists():
            shutil.copytree(wheel, root / "site" / wheel.name, symlinks=True, ignore=shutil.ignore_patterns("tests"))
    modules = ["ssl", "sqlite3", "ctypes", "lzma", "bz2", "asyncio", "multiprocessing", "decimal", "venv", "zoneinfo"]
    program = f"""if True:
        import sys, {", ".join(modules)}
        ssl.create_default_context(cafile={"/opt/" + runtime.CA_FILE!r})
        assert sys.prefix == "/opt", sys.prefix
        import subprocess; subprocess.run([sys.executable, "-c", "import ssl"], check=True)
        sys.path.append("/site"); import numpy
        ctypes.CDLL("libstdc++.so.6")
        print("works", numpy.linalg.inv(numpy.eye(2) * 4)[0, 0])
    """
    inside = 'mount -t proc proc "$0/proc" && exec chroot "$0" /opt/bin/python3 -B -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", inside, root, program], capture_output=True, check=False, text=True, env={}
    )
    assert done.stdout == "works 0.25\n", done.stderr


def test_an_interpreter_has_the_same_name_wherever_it_is_packed(tmp_path: Path, interpreter: Bundle) -> None:
    again = interpreter_bundle(cache=tmp_path)
    assert (again.id, again.libc, again.unpacked) == (interpreter.id, interpreter.libc, interpreter.unpacked)
    assert interpreter.size < 20 << 20
