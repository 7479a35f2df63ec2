"""The host's facts are those of this host."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile

import pytest

import bigmachine.observe
from bigmachine.observe import LoadInfo, MemInfo, disk_info, load_info, mem_info, usable_cpus


def test_memory_is_that_of_the_host() -> None:
    found = mem_info()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.total == pages
    assert 0 < found.available <= found.total
    assert 0 <= found.percent <= 100
    assert found.rss is None


def test_a_process_is_asked_for_what_it_holds() -> None:
    found = mem_info(os.getpid()).rss
    assert found is not None
    assert 2**20 < found < mem_info().total


def test_a_process_that_is_gone_holds_nothing_that_is_known() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    found = mem_info(gone.pid)
    assert found.rss is None
    assert found.total > 0


@pytest.mark.parametrize(
    ("limit", "used", "headroom"), [(None, None, 600), (500, 100, 400), (5000, 100, 600), (500, None, 500), (50, 60, 0)]
)
def test_headroom_is_what_the_tighter_of_host_and_container_leaves(
    limit: int | None, used: int | None, headroom: int
) -> None:
    assert MemInfo(1000, 600, 400, 40.0, limit, used).headroom == headroom


def test_the_disk_is_that_of_the_temporary_directory_unless_named() -> None:
    assert disk_info().path == tempfile.gettempdir()
    found = disk_info("/")
    assert found.path == "/"
    status = os.statvfs("/")
    assert found.total == status.f_blocks * status.f_frsize
    assert 0 <= found.free <= found.total


def test_a_path_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        disk_info("/nowhere/at/all")


def test_the_load_comes_with_the_processors_it_is_spread_over() -> None:
    found = load_info()
    assert found.cpus == usable_cpus() >= 1
    assert min(found.load1, found.load5, found.load15) >= 0


def test_facts_can_travel() -> None:
    found = LoadInfo(0.5, 0.25, 0.125, 2)
    assert pickle.loads(pickle.dumps(found)) == found


def test_the_public_names_are_these() -> None:
    assert bigmachine.observe.__all__ == [
        "DiskInfo", "LoadInfo", "MemInfo", "MemoryLimit", "cpu_quota", "disk_info", "load_info", "mem_info",
        "memory_limit", "usable_cpus",
    ]  # fmt: skip
