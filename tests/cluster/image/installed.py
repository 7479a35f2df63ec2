"""Environments and projects on disk, laid out as installers lay them out."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bigmachine.image.entry import Entry, no_entry
from bigmachine.image.image import Image
from bigmachine.image.manifest import Layer, Platform
from bigmachine.image.scan.scan import scan
from bigmachine.image.scan.scanned import Scan

WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def sha256(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def age(*roots: Path, seconds: float = 100.0) -> None:
    """Make files look as if they were written a while ago, so that a scan relies on what it finds.

    Only their modification time can be set; that they changed just now (`ctime`) the scan sees, so tests that need a
    second scan to hold also have to wait.
    """
    when = time.time() - seconds
    for root in roots:
        for path in [root, *root.rglob("*")]:
            os.utime(path, (when, when), follow_symlinks=False)


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """Be somebody whom permissions hold back, with a folder of their own: the tests may run as root."""
    is_root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp(prefix="bigmachine-test-"))
    try:
        if is_root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        shutil.rmtree(folder)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@dataclass
class Environment:
    """An environment with a site-packages directory, a home and a cache of scans."""

    root: Path

    @property
    def site(self) -> Path:
        return self.root / "env/lib/python3.11/site-packages"

    def install(
        self,
        name: str,
        files: dict[str, str],
        *,
        version: str = "1.0",
        site: Path | None = None,
        entry_points: str = "",
        editable: Path | None = None,
        wheel: str = WHEEL,
        requires: tuple[str, ...] = (),
        unlisted: tuple[str, ...] = (),
    ) -> Path:
        """Install as pip does, RECORD last; `unlisted` are files that RECORD gives no hash for."""
        site = site or self.site
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        lines = "".join(f"Requires-Dist: {each}\n" for each in requires)
        own = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}\n",
            f"{info}/WHEEL": wheel,
            f"{info}/INSTALLER": "pip\n",
        }
        if entry_points:
            own[f"{info}/entry_points.txt"] = entry_points
        if editable:
            own[f"{info}/direct_url.json"] = json.dumps({"dir_info": {"editable": True}, "url": editable.as_uri()})
        everything = files | own
        write(site, everything)
        rows = []
        for path, text in everything.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{path},," if path in unlisted else f"{path},sha256={digest},{len(text.encode())}")
        (site / info / "RECORD").write_text("\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
        age(site / info)
        for path in files:
            os.utime(site / path, (time.time() - 100,) * 2)
        return site / info

    def scan(
        self,
        *path: Path,
        entry: Entry | None = None,
        image: Image | None = None,
        target: Platform | None = None,
        distrusted: tuple[str, ...] = (),
    ) -> Scan:
        return scan(
            entry or no_entry("a test"),
            image=image,
            target=target,
            path=[str(each) for each in path or (self.site,)],
            cache_dir=self.root / "cache",
            distrusted=distrusted,
        )


def layer(found: Scan, name: str) -> Layer:
    (only,) = (each for each in found.manifest.layers if each.name == name)
    return only


def paths(found: Scan, name: str) -> list[str]:
    return [file.path for file in layer(found, name).files]


def names(found: Scan) -> list[str]:
    """Return the layers' names without our own."""
    return [each.name for each in found.manifest.layers if each.name not in ("bigmachine", "src")]
