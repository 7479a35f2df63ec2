"""A host for which something cannot be had is an error that names it, the package and what to do, in bounded time.

The hosts of the lab are all this computer, so they are made to lie of their processor and their C library. From there
no package index is reached.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from tests.labs.ssh.lab import Lab
from tests.labs.ssh.test_refusals import fails

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
UNAME = "import os; u = os.uname(); os.uname = lambda: os.uname_result((*u[:4], '{}'))"
ABI = f"import _imp; _imp.extension_suffixes = lambda: ['.cpython-{MINOR.replace('.', '')}-{{}}.so']"
ARM = f"{UNAME.format('aarch64')}; {ABI.format('aarch64-linux-gnu')}"
MUSL = (
    "import os; l = os.listdir; os.confstr = lambda _: [].index(_); "
    "os.listdir = lambda path: ['ld-musl-x86_64.so.1'] if path == '/lib' else l(path)"
)
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="needs a driver on x86-64")


@pytest.fixture(scope="module")
def environ(whole_lab: Lab) -> dict[str, str]:
    """How a driver finds uv, which knows no package here, and does not try for long."""
    uv = pytest.importorskip("uv").find_uv_bin()
    path = f"{os.path.dirname(uv)}:{os.environ['PATH']}"
    return {"PATH": path, "UV_HTTP_RETRIES": "0", "UV_CACHE_DIR": str(whole_lab.user / "uv")}


@pytest.fixture
def same_python() -> None:
    """Skip where hosts have another Python than the driver, and so would need one first."""
    told = subprocess.run(["/usr/bin/python3", "-V"], check=True, capture_output=True, text=True, timeout=20).stdout
    if not told.startswith(f"Python {MINOR}."):
        pytest.skip(f"needs hosts with Python {MINOR}; they have {told.strip()}")


@pytest.mark.usefixtures("same_python")
@pytest.mark.parametrize(("lie", "name"), [(ARM, "aarch64"), (MUSL, "x86_64 with musl")])
def test_a_package_that_the_agent_needs_and_that_cannot_be_had_is_named(
    lab: Lab, environ: dict[str, str], lie: str, name: str
) -> None:
    with lab.lying(1, lines=lie):
        kind, text = fails(lab, "lab@{1}", environ=environ)
    assert kind == "ImageError"
    assert f"ssh host lab@{lab.name(1)}: the agent needs " in text
    assert f"for Linux on {name}, Python {MINOR}, which cannot be had: install another version of " in text


@pytest.mark.usefixtures("same_python")
def test_a_python_with_32_bits_is_named(lab: Lab, environ: dict[str, str]) -> None:
    with lab.lying(1, lines=ABI.format("i386-linux-gnu")):
        kind, text = fails(lab, "lab@{1}", environ=environ)
    assert kind == "ImageError"
    assert f"ssh host lab@{lab.name(1)}: its Python is for i386, and its processor is x86_64: take a system" in text


@pytest.mark.parametrize(("lie", "under", "name"), [(UNAME.format("s390x"), "", "s390x"), ("", "setarch i686", "i686")])
def test_a_processor_that_nothing_is_made_for_is_named(
    lab: Lab, environ: dict[str, str], lie: str, under: str, name: str
) -> None:
    with lab.lying(1, lines=lie, under=under):
        kind, text = fails(lab, "lab@{1}", environ=environ)
    assert kind == "ImageError"
    assert f"ssh host lab@{lab.name(1)}: resolve: no packages are known for Linux on {name}" in text
    assert "use machines with Linux" in text


@pytest.mark.parametrize(
    ("program", "lie", "says"),
    [
        ("uname", "s390x", "no packages are known for s390x on s390x"),
        ("getconf", "musl libc (x86_64)", f"uv cannot get cpython-{MINOR}-linux-x86_64-musl: install Python {MINOR}"),
    ],
)
def test_a_host_without_python_that_none_can_be_sent_to_is_named(
    lab: Lab, environ: dict[str, str], program: str, lie: str, says: str
) -> None:
    with lab.without_python(1), lab.saying(1, program, lie):
        kind, text = fails(lab, "lab@{1}", environ=environ)
    assert kind == "ImageError"
    assert f"ssh host lab@{lab.name(1)}" in text
    assert says in text


@pytest.mark.usefixtures("same_python")
def test_the_other_hosts_are_used(lab: Lab, environ: dict[str, str]) -> None:
    with lab.lying(1, lines=ARM):
        outcome = lab.run("attempt.py", "2", hosts="lab@{1},lab@{2}*2", environ=environ)
    assert "RUNNING" in outcome.out
    assert f"ssh host lab@{lab.name(1)}: the agent needs " in outcome.err
