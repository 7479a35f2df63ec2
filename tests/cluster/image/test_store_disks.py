"""A host's disk that is full, read-only, or where nothing can be executed is named."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bigmachine.image.pack_cache import PackCache
from bigmachine.image.packs import frames
from bigmachine.image.plan import encode_head
from tests.cluster.image import sent
from tests.cluster.image.installed import Environment

SOURCE_ROOT = str(Path(__file__).parents[3] / "src")
SIZE = 8 << 20
#: The host: takes in one image after another, and says what came of each. `more`: its disk grows.
HOST = """
import pickle, subprocess, sys
from pathlib import Path
from bigmachine.errors import ImageError
from bigmachine.image.store.store import Store

disk, *steps = sys.argv[1:]
for step in steps:
    if step == "more":
        subprocess.run(["mount", "-o", "remount,size=64M", disk], check=True)
        continue
    head, frames = pickle.loads(Path(step).read_bytes())
    try:
        store = Store(Path(disk) / "store")
        built = store.receive(head, sys.executable, iter(frames))
        store.close()
        print("built", built.taken, Path(built.root, "bin/python").exists())
    except ImageError as error:
        images = [path for path in Path(disk).glob("store/v1/images/*") if path.is_dir()]
        print("failed", len(images), error)
"""


def _can_mount() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, check=False, capture_output=True, timeout=20).returncode == 0


pytestmark = pytest.mark.skipif(not _can_mount(), reason="needs root and mount namespaces, for a small disk")


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Two images of 8 MB, as files of what is sent."""
    written = []
    for name in ("one", "two"):
        env = Environment(tmp_path / name)
        files = {f"{name}/part{number}.txt": os.urandom(SIZE // 16).hex() for number in range(8)}
        env.install(name, files)
        found = env.scan()
        with sent.store(tmp_path / f"host of {name}") as host:
            whole = list(frames(found, sent.wanted(found, host), PackCache(tmp_path / "packs")))
        path = tmp_path / f"{name}.pickle"
        path.write_bytes(pickle.dumps((encode_head(found.manifest), whole)))
        written.append(str(path))
    return written


def on_disk(options: str, tmp_path: Path, *steps: str) -> list[str]:
    """Give what the host says, one line a step."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'mount -t tmpfs -o "$0" none "$1" && shift && exec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, options, str(disk)]
    done = subprocess.run(
        [*command, sys.executable, "-c", HOST, str(disk), *steps],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": SOURCE_ROOT},
    )
    return done.stdout.splitlines()


def test_a_full_disk_is_named_and_what_came_is_used_when_there_is_room(tmp_path: Path, images: list[str]) -> None:
    first, second = on_disk("size=6M", tmp_path, images[0], "more", images[0])
    assert first.startswith("failed 0 unpack: the disk is full (")
    assert first.endswith("or choose another disk")
    assert second.startswith("built ")
    assert second.endswith("True")


def test_images_nobody_is_in_make_room_for_another(tmp_path: Path, images: list[str]) -> None:
    first, second = on_disk("size=14M", tmp_path, *images)
    assert first.startswith("built ")
    assert second.startswith("built ")


def test_a_read_only_disk_is_named(tmp_path: Path, images: list[str]) -> None:
    (said,) = on_disk("ro", tmp_path, images[0])
    assert "cannot be written (Read-only file system): choose another directory" in said


def test_a_disk_where_nothing_can_be_executed_is_named(tmp_path: Path, images: list[str]) -> None:
    (said,) = on_disk("noexec", tmp_path, images[0])
    assert "store: nothing can be executed" in said
    assert "noexec" in said
