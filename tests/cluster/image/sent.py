"""Images on their way from a scan to a host's store, in one process; what travels can be looked at and spoilt."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path

from bigmachine.image.pack_cache import PackCache
from bigmachine.image.packs import frames
from bigmachine.image.plan import Wanted, encode_head
from bigmachine.image.scan.scanned import Scan
from bigmachine.image.store.store import Built, Store

#: A command of an image runs for less.
TIMEOUT = 60.0


@contextmanager
def store(root: Path, cap: int | None = None) -> Iterator[Store]:
    """Open a store, as a host's agent does, and let go of what it holds."""
    with closing(Store(root, cap)) as opened:
        yield opened


def wanted(found: Scan, host: Store) -> Wanted:
    """Ask a host what it lacks, as a driver does."""
    told = host.offer(encode_head(found.manifest), sys.executable)
    if not told.unlisted:
        return told
    return host.offer(encode_head(found.manifest, told.unlisted), sys.executable)


def packed(found: Scan, host: Store, cache: Path) -> list[bytes]:
    """Give the frames that a host lacks."""
    return list(frames(found, wanted(found, host), PackCache(cache)))


def send(found: Scan, host: Store, cache: Path) -> Built:
    """Bring an image to a host."""
    return receive(found, host, iter(packed(found, host, cache)))


def receive(found: Scan, host: Store, sent: Iterator[bytes]) -> Built:
    return host.receive(encode_head(found.manifest), sys.executable, sent)


def run(root: str, *words: str, cwd: str | Path = "/") -> str:
    """Run a command of an image, by what it is called in `bin`; give what it prints."""
    command, *arguments = words
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [f"{root}/bin/{command}", *arguments],
        check=False,  # what it prints is shown below
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        cwd=cwd,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def install_folder(site: Path, name: str, folder: Path, *, tag: str = "py3-none-linux_x86_64") -> None:
    """Install a folder's files as a distribution with a RECORD."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n")
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
    shutil.copytree(folder, site, dirs_exist_ok=True)
    rows = [f"{info.name}/METADATA,,", f"{info.name}/WHEEL,,"]
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        content = path.read_bytes()
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{path.relative_to(folder)},sha256={digest},{len(content)}")
    (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/RECORD,,", ""]))


def copy_distribution(name: str, site: Path) -> None:
    """Copy a distribution that is installed for the tests to another site-packages."""
    for file in metadata.files(name) or ():
        if ".." in file.parts or "__pycache__" in file.parts or "tests" in file.parts:
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(str(file.locate()), target)


def below(root: Path) -> set[str]:
    """Name every file below a directory, relative to it."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}
