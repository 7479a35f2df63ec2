"""Bare hosts for tests: stage 0 as a process of this computer, with a cache of its own, and the driver's way to it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bigmachine.agent.bare.client import BareHost, tcp
from bigmachine.agent.bare.delivery import Stage0Orders, stage0_command, stage0_input
from bigmachine.image.bundles.bundle import Bundle, Part, kept_bundle
from bigmachine.trust import Authority, Identity, Role

SESSION = "s1b2c3d4"
HOST_ID = "h5e6f7"
AUTHORITY = Authority(SESSION)
DRIVER = AUTHORITY.issue(Role.DRIVER, "driver")
#: Nothing that is awaited here takes longer, even on a busy computer.
PATIENCE = 30.0


def pythons() -> list[str]:
    """Find the Pythons of this computer that stage 0 can run on, one of each version."""
    beside = Path(sys.base_prefix).parent  # where an interpreter stands among others, each in a folder of its version
    places = [*map(str, beside.glob("3.*/bin/python3"))]
    places += [found for minor in range(6, 15) if (found := shutil.which(f"python3.{minor}"))]
    places += ["/usr/bin/python3"]
    probe = "import sys,ssl;print(sys.version_info>=(3,6) and ssl.HAS_ALPN, sys.version.split()[0])"
    by_version: dict[str, str] = {}
    for place in places:
        with contextlib.suppress(OSError):
            said = subprocess.run([place, "-ISc", probe], capture_output=True, check=False, text=True).stdout.split()
            if said[:1] == ["True"]:
                by_version.setdefault(said[1], place)
    return [by_version[version] for version in sorted(by_version)]


@dataclasses.dataclass
class Running:
    """A process that is stage 0, or an agent later."""

    process: subprocess.Popen[bytes]
    cache: Path
    port: int
    identity: Identity

    def client(self, *, driver: Identity = DRIVER, host: str = "testhost") -> BareHost:
        return BareHost(tcp("127.0.0.1", self.port), driver, HOST_ID, host=host, timeout=PATIENCE)

    def line(self) -> dict[str, Any]:
        """Read the next line of its report."""
        return read_line(self.process)

    def let_go(self) -> None:
        """Break the tether."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kept(self) -> list[str]:
        """Tell what is in its cache, apart from folders."""
        return sorted(str(path.relative_to(self.cache)) for path in self.cache.rglob("*") if not path.is_dir())


def read_line(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    line = read_raw_line(process)
    facts = json.loads(line)
    assert isinstance(facts, dict)
    return facts


def read_raw_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    line, end = b"", time.monotonic() + PATIENCE
    while not line.endswith(b"\n"):
        ready = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))[0]
        assert ready, f"no line within {PATIENCE:g} s, only {line!r}"
        piece = os.read(process.stdout.fileno(), 1)
        assert piece, f"the process ended after {line!r}"
        line += piece
    return line


def orders(cache: Path, **changes: Any) -> Stage0Orders:
    made = Stage0Orders(AUTHORITY.issue(Role.BOOTSTRAP, HOST_ID), ("127.0.0.1", 0), (str(cache),), PATIENCE)
    return dataclasses.replace(made, **changes)


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process with pipes; it is killed at the end, whatever it became."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True, **options
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)
        process.stdout.close()


@contextlib.contextmanager
def bare_host(python: str, cache: Path, *, wrap: Sequence[str] = (), **changes: Any) -> Iterator[Running]:
    """Run stage 0 by a Python, as a login would."""
    told = orders(cache, **changes)
    with started([*wrap, "sh", "-c", stage0_command(python)]) as process:
        assert process.stdin is not None
        process.stdin.write(stage0_input(told))
        report = read_line(process)
        assert report == {"port": report["port"], "stage": 0}
        yield Running(process, cache, report["port"], told.identity)


def small_bundle(folder: Path, parts: Sequence[Part] = (Part("a/b.txt", b"hello"),)) -> Bundle:
    return kept_bundle("kits", repr(parts), folder, lambda: parts)


def odd_bundle(folder: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Bundle:
    """Make a bundle that no honest driver makes."""
    bundle = small_bundle(folder)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path = folder / "odd.tar.gz"
    path.write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return dataclasses.replace(bundle, path=path, sha256=digest, size=len(buffer.getvalue()), unpacked=1 << 20)
