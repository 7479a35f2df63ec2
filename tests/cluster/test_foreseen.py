"""What cannot be had for instances of another processor is said before one is bought, and the others are bought.

The region is an endpoint that keeps a list of what it is asked, and has no instances; what a program needs there is
found by uv in a real package index.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from bigmachine.errors import ImageError
from bigmachine.image.platforms import this_platform
from bigmachine.session.foreseen import make_kit, platform_of
from bigmachine.system import Foreseen
from tests.cluster.processes import wait_until_gone
from tests.labs import lean

PROJECT = Path(__file__).parents[2]
OURS = this_platform()
ARM = "aarch64"
#: What may be asked for without buying, and the answer; `c7g.large` is as the API describes it.
ANSWERS = {
    "DescribeInstanceTypes": """<instanceTypeSet><item><instanceType>c7g.large</instanceType>
        <processorInfo><supportedArchitectures><item>arm64</item></supportedArchitectures></processorInfo>
        <vCpuInfo><defaultVCpus>2</defaultVCpus></vCpuInfo>
        <supportedUsageClasses><item>on-demand</item><item>spot</item></supportedUsageClasses></item></instanceTypeSet>""",
    "DescribeImages": """<imagesSet><item><imageId>ami-1</imageId><architecture>arm64</architecture>
        <rootDeviceName>/dev/xvda</rootDeviceName></item></imagesSet>""",
    "DescribeInstanceTypeOfferings": """<instanceTypeOfferingSet><item><instanceType>c7g.large</instanceType></item>
        </instanceTypeOfferingSet>""",
}
PROGRAM = """\
import bigmachine
from bigmachine.systems.ec2 import EC2System

class Nothing:
    pass

if __name__ == "__main__":
    with bigmachine.start(EC2System(type="c7g.large", ondemand=True, region="eu-central-1")) as session:
        try:
            session.start(2, services=[Nothing()])
        except bigmachine.errors.BigmachineError as error:
            print("FAILED", type(error).__name__, error)
"""

pytestmark = [
    pytest.mark.skipif(OURS.machine == ARM, reason="needs a driver of another machine than ARM64"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, as labs do"),
]


class Asked(BaseHTTPRequestHandler):
    """Answers, and keeps what it was asked."""

    actions: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        target = self.headers.get("X-Amz-Target", "")
        action = target.rpartition(".")[2] or parse_qs(body)["Action"][0]
        self.actions.append(action)
        if action == "GetParameter":
            self.say(200, json.dumps({"Parameter": {"Value": "ami-1"}}))
        elif target:
            self.say(200, "{}")
        elif action in ANSWERS:
            self.say(200, f"<{action}Response>{ANSWERS[action]}</{action}Response>")
        else:
            code = "<Code>InsufficientInstanceCapacity</Code><Message>there is none</Message>"
            self.say(500, f"<Response><Errors><Error>{code}</Error></Errors></Response>")

    def say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def region() -> Iterator[tuple[str, list[str]]]:
    """The address of an API, and what it was asked so far."""

    class Handler(Asked):
        actions: list[str] = []  # noqa: RUF012 (one server, one list)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Handler.actions
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small environment for drivers; skips where the packages of another platform cannot be looked up."""
    pytest.importorskip("boto3")
    pytest.importorskip("uv")
    folder = tmp_path_factory.mktemp("lean")
    (folder / "asked.in").write_text("h11\n")
    command = [uv(), "pip", "compile", "--no-cache", "-q", "--python", sys.executable, str(folder / "asked.in")]
    if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("needs a package index that uv can reach")
    yield lean.make(folder / "env", PROJECT, "boto3")
    shutil.rmtree(folder)


def uv() -> str:
    from uv import find_uv_bin

    return str(find_uv_bin())


def drive(python: Path, folder: Path, address: str, cache: Path | None = None) -> str:
    """Run the program to its end, within bounds; gives what it printed."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BIGMACHINE_"))}
    environ |= {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": address}
    environ |= {"PATH": f"{os.path.dirname(uv())}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT / "src")}
    environ |= {"HOME": str(folder), "XDG_CACHE_HOME": str(cache or python.parents[2] / "cache")}
    environ.setdefault("UV_CACHE_DIR", str(Path("~/.cache/uv").expanduser()))
    command = [str(python), str(program)]
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bought(actions: list[str]) -> list[str]:
    """Return what was asked that would have cost something, or made anything."""
    return [action for action in actions if not action.startswith(("Describe", "Get"))]


def test_a_program_of_which_all_can_be_had_is_started_on_another_processor(
    python: Path, tmp_path: Path, region: tuple[str, list[str]]
) -> None:
    told = drive(python, tmp_path, region[0])
    assert "FAILED ProvisionError ec2: none of 2 machines could be had" in told
    assert "RunInstances" in bought(region[1])


def test_a_package_that_cannot_be_had_is_named_with_the_remedy_and_nothing_is_bought(
    python: Path, tmp_path: Path, region: tuple[str, list[str]]
) -> None:
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    info = site / "docopt-0.6.2.dist-info"  # of which its authors never made a wheel
    info.mkdir()
    (site / "docopt.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: docopt\nVersion: 0.6.2\n")
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-linux_{OURS.machine}\n")
    (info / "RECORD").write_text("docopt.py,,\n" + "".join(f"{info.name}/{n},,\n" for n in ("METADATA", "WHEEL")))
    try:
        told = drive(python, tmp_path, region[0])
    finally:
        shutil.rmtree(info)
        (site / "docopt.py").unlink()
    assert "FAILED ImageError resolve: docopt cannot be had for Linux on aarch64" in told
    assert "Image(without=['docopt'])" in told
    assert bought(region[1]) == []
    assert "DescribeInstanceTypes" in region[1]


def test_what_the_agent_needs_that_cannot_be_had_is_said_before_anything_is_bought(
    python: Path, tmp_path: Path, region: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    told = drive(python, tmp_path, region[0], tmp_path / "cache")
    assert "FAILED ImageError an instance of type c7g.large: the agent needs " in told
    assert "or start the driver on such a host" in told
    assert bought(region[1]) == []


# what is foreseen


def test_a_host_whose_library_is_older_than_the_drivers_python_needs_is_named(tmp_path: Path) -> None:
    if not OURS.libc.startswith("glibc"):
        pytest.skip("needs glibc")
    old = Foreseen("an old host", OURS.machine, libc="glibc 2.5", python="2.7")
    with pytest.raises(ImageError, match=r"^an old host has glibc 2\.5, and the driver's Python needs glibc .*or run"):
        platform_of(old, cache=tmp_path)


def test_a_host_whose_own_python_fits_needs_none(tmp_path: Path) -> None:
    hosts = Foreseen("a host", OURS.machine, libc=OURS.libc, python=OURS.minor)
    platform = platform_of(hosts, cache=tmp_path)
    make_kit(hosts, platform, cache=tmp_path)
    assert (platform.abi, platform.machine) == (OURS.abi, OURS.machine)
    assert len(list(tmp_path.glob("bundles/*.tar.gz"))) == 1  # the kit


def test_what_is_not_known_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own Python may fit, so it is a warning that none can be sent there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "uv", None)
    assert platform_of(Foreseen("a host", ARM), cache=tmp_path).machine == ARM
    assert f"unless it has Python {OURS.minor}, nothing can start there: a host: " in caplog.text


def test_a_processor_that_no_packages_are_for_is_named(tmp_path: Path) -> None:
    host = Foreseen("a mainframe", "s390x", libc="glibc 2.36", python=OURS.minor)
    with pytest.raises(ImageError, match="a mainframe: resolve: no packages are known for Linux on s390x"):
        make_kit(host, platform_of(host, cache=tmp_path), cache=tmp_path)


def test_a_program_that_ends_meanwhile_ends_uv_too(tmp_path: Path) -> None:
    fake = tmp_path / "uv"
    fake.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 60\n")
    fake.chmod(0o755)
    program = f"""if True:
        import atexit, pathlib, threading, time
        from bigmachine.image.manifest import Platform
        from bigmachine.image.foreign.uv import Uv
        uv = Uv(Platform("3.11", "", "Linux", "{ARM}", "glibc 2.36"), pathlib.Path("{tmp_path}"))
        before, end = atexit._ncallbacks(), time.monotonic() + 10
        threading.Thread(target=uv.run, daemon=True).start()
        while not (pathlib.Path("{tmp_path}/pid").exists() and atexit._ncallbacks() > before):
            time.sleep(0.01)
            if time.monotonic() > end:
                break
    """
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-c", program], env=environ, check=True, timeout=60)
    pid = int((tmp_path / "pid").read_text())
    wait_until_gone([pid], 10)
