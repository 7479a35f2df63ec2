"""The RPC port from a shell, as the documentation shows it: with the curl binary."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from bigmachine.trust import write_credentials
from tests.unit.rpc.http_port import MACHINE, Port, identity, listening, run, until
from tests.unit.rpc.http_services import Demo


@functools.cache
def reason_to_skip() -> str:
    if shutil.which("curl") is None:
        return "there is no curl on this host"
    told = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    return "" if "HTTP2" in told.split() else "the curl of this host was built without HTTP/2"


pytestmark = [
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-"),
    pytest.mark.parametrize("version", ["--http1.1", "--http2"]),
]


async def start_curl(port: Port, directory: Path, version: str, path: str, *options: str) -> asyncio.subprocess.Process:
    files = write_credentials(identity(), directory)
    proof = ["--cacert", str(files.ca), "--cert", str(files.certificate), "--key", str(files.key)]
    where = ["--connect-to", f"{MACHINE}:443:127.0.0.1:{port.number}", f"https://{MACHINE}{path}"]
    command = ["curl", "--silent", "--show-error", "--no-buffer", "--max-time", "20", version, *proof, *options, *where]
    return await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def curl(tmp_path: Path, version: str, path: str, *options: str) -> tuple[int, str, str, str]:
    """Return curl's exit status, the HTTP version and status, and the body."""
    got: list[tuple[int, str, str, str]] = []

    async def scenario() -> None:
        async with listening({"Demo": Demo()}) as port:
            told = "\n%{http_version} %{http_code}"
            process = await start_curl(port, tmp_path, version, path, "--write-out", told, *options)
            out, _ = await process.communicate()
            body, _, last = out.decode().rpartition("\n")
            spoken, status = last.split()
            assert process.returncode is not None
            got.append((process.returncode, spoken, status, body))

    run(scenario)
    return got[0]


def test_a_call_is_answered(tmp_path: Path, version: str) -> None:
    answer = curl(tmp_path, version, "/bigrpc/Demo.add", "--json", '{"a": 1, "b": 2}')
    assert answer == (0, "2" if version == "--http2" else "1.1", "200", "3\n")


def test_arguments_may_be_given_without_any_header(tmp_path: Path, version: str) -> None:
    assert curl(tmp_path, version, "/bigrpc/Demo.add", "-d", "[1, 2]")[2:] == ("200", "3\n")


def test_the_services_are_listed(tmp_path: Path, version: str) -> None:
    assert curl(tmp_path, version, "/")[2:] == ("200", '{"services":["Demo"]}\n')


def test_an_exception_is_told(tmp_path: Path, version: str) -> None:
    _, _, status, body = curl(tmp_path, version, "/bigrpc/Demo.fail", "-d", '"boom"')
    assert (status, json.loads(body)["error"]["message"]) == ("590", "boom")


def test_a_stream_that_fails_makes_curl_fail(tmp_path: Path, version: str) -> None:
    exit_status, _, status, body = curl(tmp_path, version, "/bigrpc/Demo.breaks", "-X", "POST")
    assert exit_status in (18, 56, 92), "partial file, receive error, or HTTP/2 stream error"
    assert (status, body.splitlines()[:2]) == ("200", ["1", "2"])


def test_a_file_is_sent_and_fetched_whole(tmp_path: Path, version: str) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps(["x" * 3_000_000]))
    assert curl(tmp_path, version, "/bigrpc/Demo.size", "--data-binary", f"@{body}")[2:] == ("200", "3000000\n")
    fetched = tmp_path / "fetched"
    assert curl(tmp_path, version, "/bigrpc/Demo.file", "-d", "5000192", "-o", str(fetched))[0] == 0
    assert fetched.read_bytes() == bytes(range(256)) * 19532


def test_a_body_above_the_limit_is_refused(tmp_path: Path, version: str) -> None:
    body = tmp_path / "body"
    with body.open("wb") as file:
        file.truncate(65 * 2**20)
    assert curl(tmp_path, version, "/bigrpc/Demo.size", "--data-binary", f"@{body}")[2] == "413"


def test_killing_curl_cancels_the_call(tmp_path: Path, version: str) -> None:
    async def scenario() -> None:
        demo = Demo()
        async with listening({"Demo": demo}) as port:
            process = await start_curl(port, tmp_path, version, "/bigrpc/Demo.wait", "-X", "POST")
            await until(lambda: demo.sink.running)
            process.kill()
            await process.communicate()
            await until(lambda: demo.sink.cancelled == 1)

    run(scenario)


def test_a_call_without_a_certificate_is_refused(tmp_path: Path, version: str) -> None:
    async def scenario() -> None:
        demo = Demo()
        async with listening({"Demo": demo}) as port:
            command = ["curl", "--silent", "--insecure", version, "-d", "1", f"{port.url}/bigrpc/Demo.echo"]
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            out, _ = await process.communicate()
            assert process.returncode != 0
            assert (out, port.connections) == (b"", [])

    run(scenario)
