"""The diagnostic pages of real machines: status, profiles, `go tool pprof`, and machines that do not answer."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

import bigmachine
from bigmachine import Session
from bigmachine.observe import pprof
from bigmachine.web import ASGIApp, debug_app
from bigmachine.web.asgi import Receive, Scope, Send
from bigmachine.web.serving import Connection


class Work:
    def spin(self) -> None:
        call = bigmachine.current_call()
        while not call.cancelled():
            self.add_up()

    def add_up(self) -> int:
        return sum(range(2000))

    def say(self, text: str) -> None:
        print(text, flush=True)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with bigmachine.start("local", output="off", name="pages") as session:
        for machine in session.start(2, services=[Work()], environ={"BIGMACHINE_MUTEX": "1"}):
            machine.wait()
        yield session


def page(session: Session, path: str, limit: float = 60.0) -> tuple[int, bytes]:
    base, _, token = session.serve_debug(port=0).partition("?token=")
    request = urllib.request.Request(f"{base}{path}", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=limit) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def go_pprof(url: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    cache = os.environ.get("GOCACHE") or str(Path.home() / ".cache" / "go-build")
    environ = {**os.environ, "HOME": str(scratch), "GOCACHE": cache, "GOTOOLCHAIN": "local", "GOPROXY": "off"}
    return subprocess.run(
        ["go", "tool", "pprof", "-top", "-seconds", "1", url],
        env=environ,
        cwd=scratch,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Serve an application of the program's own, in a thread; give its address."""
    ready = Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]]()

    async def serve() -> None:
        over = asyncio.Event()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with closing(writer):
                await Connection(app, reader, writer).serve()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            ready.set_result((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    port, loop, over = ready.result(10)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)


def test_status_tells_of_each_machine_as_gos_page_does(session: Session) -> None:
    _, body = page(session, "status")
    text = body.decode()
    for machine in session.machines():
        assert machine.address in text
    for word in ("keepalive:", "memory:", "runtime:", "disk:", "load:"):
        assert text.count(f"    {word}\n") == 2, word
    uptimes = [line.split()[-1] for line in text.splitlines() if "uptime:" in line]
    assert all(0 < float(each.removesuffix("s")) < 600 for each in uptimes), uptimes


def test_profiles_are_merged_and_of_one_machine_if_that_is_wanted(session: Session) -> None:
    first, second = session.machines()
    spinning = [machine.submit(Work.spin) for machine in (first, second)]
    try:
        merged = pprof.decode(page(session, "pprof/profile?seconds=1")[1])
        alone = pprof.decode(page(session, f"pprof/profile?seconds=0.5&machine={second.name}")[1])
    finally:
        for call in spinning:
            call.cancel()
    assert {dict(labels)["machine"] for _, labels in merged.samples} == {first.name, second.name}
    assert {dict(labels)["machine"] for _, labels in alone.samples} == {second.name}
    assert "Work.add_up" in str(list(merged.samples))


@pytest.mark.parametrize("kind", ["heap", "goroutine", "mutex"])
def test_other_profiles_are_there_in_all_formats(session: Session, kind: str) -> None:
    assert page(session, f"pprof/{kind}?gc=1" if kind == "heap" else f"pprof/{kind}")[1][:2] == b"\x1f\x8b"
    assert json.loads(page(session, f"pprof/{kind}?format=speedscope")[1])["$schema"]
    assert page(session, f"pprof/{kind}?format=svg")[1].startswith(b"<")
    status, text = page(session, f"pprof/{kind}?debug=1")
    assert (status, text[:2] == b"\x1f\x8b") == (200, False)


@pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go here, whose pprof this is for")
@pytest.mark.parametrize("kind", ["profile", "heap"])
def test_go_tool_pprof_reads_them_over_http(session: Session, tmp_path: Path, kind: str) -> None:
    call = session.machines()[0].submit(Work.spin)
    base, _, token = session.serve_debug(port=0).partition("?")
    try:
        found = go_pprof(f"{base}pprof/{kind}?{token}", tmp_path)
    finally:
        call.cancel()
    assert found.returncode == 0, found.stderr
    assert ("Work.add_up" if kind == "profile" else "Type: inuse_space") in found.stdout + found.stderr


@pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go here, whose pprof this is for")
def test_go_tool_pprof_reads_them_under_a_prefix(session: Session, tmp_path: Path) -> None:
    pages = debug_app(session)

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/ops/here/"):
            await pages({**scope, "root_path": "/ops/here"}, receive, send)
        else:
            raise AssertionError(scope)

    call = session.machines()[0].submit(Work.spin)
    try:
        with served(mounted) as base:
            found = go_pprof(f"{base}/ops/here/debug/bigmachine/pprof/profile", tmp_path)
    finally:
        call.cancel()
    assert found.returncode == 0, found.stderr
    assert "Work.add_up" in found.stdout


def test_two_profiles_at_once_are_both_answered(session: Session) -> None:
    answers: list[tuple[int, bytes]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(page(session, "pprof/profile?seconds=1&debug=1&idle=1")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [status for status, _ in answers] == [200, 200]


def test_of_machines_that_stand_still_or_are_gone_the_rest_comes_in_bounded_time() -> None:
    with bigmachine.start("local", output="off") as session:
        machines = session.start(2, services=[Work()])
        for machine in machines:
            machine.wait()
        session.serve_debug(port=0)
        pid = machines[0].call("Supervisor.getpid")
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            status, body = page(session, "status")
            assert time.monotonic() - began < 12
            assert status == 200
            assert machines[1].address in body.decode()
            status, body = page(session, "pprof/goroutine?debug=1")
            assert (status, "m2:" in body.decode()) == (200, True)
            status, body = page(session, "pprof/heap")
            [missing] = [each for each in pprof.decode(body).comments if each.startswith("missing: ")]
            assert (status, missing.startswith("missing: m1: ")) == (200, True)
        finally:
            with suppress(ProcessLookupError):  # its agent may have given it up by now
                os.kill(pid, signal.SIGKILL)
        machines[0].wait(bigmachine.State.STOPPED, 20)
        assert page(session, "pprof/heap?machine=m1")[0] == 404
        machines[1].shutdown()
        status, body = page(session, "pprof/heap")
        assert (status, b"no machine" in body) == (503, True)
