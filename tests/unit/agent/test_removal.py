"""A directory goes with all in it, and nothing that is outside of it."""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigmachine.agent.processes.removal import remove


def soon() -> float:
    return time.monotonic() + 10


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    return place


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    return outside


def test_files_directories_and_sockets_go(place: Path) -> None:
    (place / "a/b/c").mkdir(parents=True)
    (place / "a/b/file").write_text("x")
    os.mkfifo(place / "a/pipe")
    (place / "a" / os.fsdecode(b"no utf-8 \xff\n")).touch()
    assert remove(str(place), soon())
    assert not place.exists()


def test_what_is_not_there_counts_as_removed(place: Path) -> None:
    assert remove(str(place / "no"), soon())
    assert remove(str(place / "no/more"), soon())


def test_a_link_goes_and_its_target_stays(place: Path, outside: Path) -> None:
    (place / "deeper").mkdir()
    (place / "deeper/to-directory").symlink_to(outside)
    (place / "to-file").symlink_to(outside / "kept")
    os.link(outside / "kept", place / "hard")
    assert remove(str(place), soon())
    assert (outside / "kept").read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o755


def test_a_link_in_the_place_of_the_directory_is_not_followed(place: Path, outside: Path) -> None:
    link = place / "link"
    link.symlink_to(outside)
    assert not remove(str(link), soon())
    assert (outside / "kept").exists()


@pytest.mark.parametrize("mode", [0o000, 0o200, 0o500, 0o1777])
def test_modes_do_not_matter(mode: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        place = Path(parent) / "place"
        inner = place / "odd/inner"
        inner.mkdir(parents=True)
        (place / "odd/file").touch(mode=0o000)
        inner.chmod(mode)
        (place / "odd").chmod(mode)
        child = os.fork()
        if child == 0:
            if os.getuid() == 0:  # it may do everything; somebody else has to be asked
                for path in (inner, place / "odd/file", place / "odd", place, Path(parent)):
                    os.chown(path, 65534, 65534)
                os.setgroups([])
                os.setuid(65534)
            os._exit(0 if remove(str(place), soon()) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not place.exists()


def test_depth_does_not_matter(place: Path) -> None:
    deep = os.open(place, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=deep)
        deeper = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)
    assert remove(str(place), soon())
    assert not place.exists()


def test_it_stops_when_its_time_is_up_and_goes_on_later(place: Path) -> None:
    for number in range(20_000):
        (place / str(number)).touch()
    assert not remove(str(place), time.monotonic() + 0.005)
    left = len(os.listdir(place))
    assert 0 < left < 20_000
    assert remove(str(place), soon())
    assert not place.exists()


@pytest.fixture
def mounted(place: Path, outside: Path) -> Iterator[Path]:
    """Bind `outside`, which is on the same device, into the place."""
    (place / "mounted").mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(outside), os.fsencode(place / "mounted"), None, 4096, None) != 0:  # MS_BIND
        pytest.skip(f"mounting is not allowed here: {os.strerror(ctypes.get_errno())}")
    try:
        yield place / "mounted"
    finally:
        assert libc.umount2(os.fsencode(place / "mounted"), 0) == 0


def test_what_is_mounted_there_stays(place: Path, outside: Path, mounted: Path) -> None:
    (place / "file").touch()
    assert not remove(str(place), soon())
    assert os.listdir(place) == ["mounted"]
    assert (outside / "kept").read_text() == "kept"
    assert not remove(str(mounted), soon())
    assert (outside / "kept").read_text() == "kept"
