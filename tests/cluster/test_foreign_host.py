"""Hosts of another processor: what an agent needs there is found, and an agent is really raised on one.

For that the host is emulated: BIGMACHINE_ARM64_ROOT names a folder with Debian's Python for ARM64, and the kernel runs
it by qemu-aarch64 (package qemu-user-static, with binfmt_misc). The folder is made like this:

    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3 bookworm FOLDER
    for deb in FOLDER/var/cache/apt/archives/*.deb; do dpkg-deb -x $deb FOLDER; done
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bigmachine.agent.bare.client import bring_up
from bigmachine.agent.identity import give_identity
from bigmachine.errors import ImageError
from bigmachine.image.bundles.kit import SITE, kit_bundle
from bigmachine.image.bundles.runtime import CA_FILE
from bigmachine.image.foreign.runtime import foreign_interpreter
from bigmachine.image.manifest import Platform
from bigmachine.image.platforms import this_platform
from bigmachine.rpc import Reactor
from bigmachine.trust import Role
from tests.cluster.bare_hosts import AUTHORITY, HOST_ID, PATIENCE, bare_host
from tests.cluster.test_bare_host import CLOCKS, on_loop, way

OURS = this_platform()
ARM = Platform(
    f"{OURS.minor}.2", f"cpython-{OURS.minor.replace('.', '')}-aarch64-linux-gnu", "Linux", "aarch64", "glibc 2.36"
)
pytestmark = pytest.mark.skipif(OURS.machine == ARM.machine, reason="needs a driver of another machine than ARM64")
#: The machine's number in the head of an ELF file.
AARCH64 = 183
#: As the builds that uv gets have it, and as it reads it.
SYSCONFIG = f"""\
# system configuration generated and used by the sysconfig module
build_time_vars = {{'SOABI': '{ARM.abi}'}}
"""
#: An emulated agent takes its time.
SLOW = 4 * PATIENCE


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver's cache; skips where the packages cannot be had."""
    uv = pytest.importorskip("uv")
    asked = tmp_path_factory.mktemp("index") / "asked.in"
    asked.write_text("h11\n")
    command = [uv.find_uv_bin(), "pip", "compile", "--no-cache", "-q", "--python", sys.executable, str(asked)]
    if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("needs a package index that uv can reach")
    return tmp_path_factory.mktemp("packed")


def elf_machines(bundle: Path) -> dict[str, int]:
    """Return the processor of each compiled file in a bundle."""
    with tarfile.open(bundle) as tar:
        files = [(member.name, tar.extractfile(member)) for member in tar if member.isfile()]
        heads = {name: file.read(20) for name, file in files if file is not None}
    return {name: int.from_bytes(head[18:20], "little") for name, head in heads.items() if head.startswith(b"\x7fELF")}


def test_the_agents_packages_are_found_for_another_processor(packed: Path) -> None:
    kit = kit_bundle(ARM, cache=packed)
    machines = elf_machines(kit.path)
    assert {name.split("/")[1].split(".")[0] for name in machines} >= {
        "psutil",
        "zstandard",
        "_cffi_backend",
        "cryptography",
    }
    assert set(machines.values()) == {AARCH64}
    assert kit.libc <= (2, 36)
    with tarfile.open(kit.path) as tar:
        names = set(tar.getnames())
    assert {f"{SITE}/bigmachine/__init__.py", f"{SITE}/h11/__init__.py", f"{SITE}/h2/__init__.py"} <= names
    assert kit_bundle(ARM, cache=packed) == kit


def test_a_platform_without_packages_is_said_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no packages are known for Linux on riscv64"):
        kit_bundle(replace(ARM, machine="riscv64"), cache=tmp_path)


@pytest.mark.usefixtures("packed")
def test_a_package_that_cannot_be_had_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(
        ImageError, match=rf"the agent needs \w+ [\d.]+ for Linux on aarch64, Python {OURS.minor}, which"
    ):
        kit_bundle(ARM, cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_without_uv_its_absence_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(ImageError, match="found by uv, which is not here: pip install uv"):
        kit_bundle(ARM, cache=tmp_path)


# an interpreter for it


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What uv downloads an interpreter from: a folder with one that has all that matters, and much that does not."""
    pytest.importorskip("uv")
    minor = f"python{OURS.minor}"
    files = {
        f"bin/{minor}": b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(44),
        f"lib/{minor}/os.py": b"x = 1\n",
        f"lib/{minor}/test/test_os.py": b"x = 1\n",
        f"lib/{minor}/_sysconfigdata__linux_aarch64-linux-gnu.py": SYSCONFIG.encode(),
        "lib/tcl8.6/init.tcl": b"set x 1\n",
        "include/Python.h": b"\n",
    }
    archive = tmp_path / "python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(f"python/{path}")
            member.size, member.mode = len(content), 0o755 if path.startswith("bin/") else 0o644
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("python/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, minor
        tar.addfile(link)
    major, number = map(int, OURS.minor.split("."))
    listed = {
        f"cpython-{OURS.minor}.99-linux-aarch64-gnu": {
            "name": "cpython",
            "arch": {"family": "aarch64", "variant": None},
            "os": "linux",
            "libc": "gnu",
            "major": major,
            "minor": number,
            "patch": 99,
            "prerelease": "",
            "url": archive.as_uri(),
            "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
            "variant": None,
            "build": "20260101",
        }
    }
    (tmp_path / "listed.json").write_text(json.dumps(listed))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", str(tmp_path / "listed.json"))
    return archive


@pytest.mark.usefixtures("mirror")
def test_an_interpreter_for_it_is_one_that_uv_gets(tmp_path: Path) -> None:
    bundle, platform = foreign_interpreter(replace(ARM, python=OURS.python), cache=tmp_path / "cache")
    assert platform == replace(ARM, python=f"{OURS.minor}.99")
    with tarfile.open(bundle.path) as tar:
        members = {member.name: member for member in tar}
    minor = f"python{OURS.minor}"
    assert members["bin/python3"].linkname == f"bin/{minor}".removeprefix("bin/")
    assert members[f"bin/{minor}"].mode & 0o100
    assert f"lib/{minor}/os.py" in members
    assert not [name for name in members if "tcl" in name or "/test/" in name or name.startswith("include")]
    assert CA_FILE in members
    assert foreign_interpreter(ARM, cache=tmp_path / "cache") == (bundle, platform)


def test_an_interpreter_that_cannot_be_had_is_said_with_what_to_do(mirror: Path, tmp_path: Path) -> None:
    mirror.unlink()
    with pytest.raises(ImageError, match=rf"install Python {OURS.minor} there, and it will be used; or let uv reach"):
        foreign_interpreter(ARM, cache=tmp_path / "cache")


# the host, emulated


@pytest.fixture
def arm_host() -> Iterator[tuple[str, Path]]:
    """A folder that is a host's root, and one for its cache there."""
    root = os.environ.get("BIGMACHINE_ARM64_ROOT", "")
    if not root:
        pytest.skip("needs BIGMACHINE_ARM64_ROOT, a folder with a Python for ARM64 (see above)")
    if os.geteuid():
        pytest.skip("needs root, for chroot")
    probe = ["chroot", root, "/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    told = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if told.returncode:
        pytest.skip(f"needs a kernel that runs programs for ARM64 by qemu: {told.stderr.strip()}")
    if told.stdout.strip() != OURS.minor:
        pytest.skip(f"needs a driver of the same Python as that folder's, which is {told.stdout.strip()}")
    cache = tempfile.mkdtemp(dir=f"{root}/var/tmp")
    yield root, Path(cache).relative_to(root)
    shutil.rmtree(cache)


def test_an_agent_is_raised_on_a_host_of_another_processor(arm_host: tuple[str, Path], packed: Path) -> None:
    root, cache = arm_host
    with bare_host("/usr/bin/python3", Path("/", cache), wrap=("chroot", root)) as running:
        with running.client() as client:
            clocks = replace(CLOCKS, first_contact=SLOW)
            raised = bring_up(client, running.identity, clocks, tethered=True, cache=packed)
        assert raised.platform.machine == "aarch64"
        assert raised.python.startswith("/usr/bin/python3")
        assert running.line() == {"port": running.port}

        async def swap(reactor: Reactor) -> None:
            await give_identity(reactor, way(running.port, Role.BOOTSTRAP), HOST_ID, AUTHORITY.sign)

        on_loop(swap)
        running.let_go()
        assert running.process.wait(PATIENCE) == 0


def test_all_of_the_agents_modules_are_imported_there(arm_host: tuple[str, Path], packed: Path) -> None:
    root, cache = arm_host
    with tarfile.open(kit_bundle(ARM, cache=packed).path) as tar:
        tar.extractall(Path(root, cache), filter="tar")
    program = f"""if True:
        import sys
        sys.path.insert(0, "/{cache}/{SITE}")
        import bigmachine.agent.main, bigmachine.agent.run, bigmachine.agent.supervisor, bigmachine.program.main
        import bigmachine.rpc.http.http1, bigmachine.rpc.http.http2, bigmachine.image.store.store
        import psutil, zstandard, aiofastnet
        from cryptography.hazmat.primitives.asymmetric import ec
        ec.generate_private_key(ec.SECP256R1())
        assert zstandard.ZstdDecompressor().decompress(zstandard.ZstdCompressor().compress(b"x")) == b"x"
        print(psutil.Process().pid > 0, sys.implementation._multiarch)
    """
    command = ["chroot", root, "/usr/bin/python3", "-ISc", program]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=SLOW)
    assert (done.stdout, done.stderr) == ("True aarch64-linux-gnu\n", "")
