"""The tightest limit of all groups around a process holds, and a missing file is no limit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from bigmachine.observe import MemoryLimit, cpu_quota, memory_limit, usable_cpus

MIB = 2**20


def process(root: Path, files: Mapping[str, str], *, version: int = 2) -> str:
    """Lay out the files of a process in group /outer/inner, and return its directory."""
    mount = root / "cg"
    for name, text in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(text)
    kind, options = ("cgroup2", "rw") if version == 2 else ("cgroup", "rw,memory,cpu")
    (root / "mountinfo").write_text(f"35 25 0:30 / {mount} rw - {kind} none {options}\n")
    (root / "cgroup").write_text("0::/outer/inner\n" if version == 2 else "4:memory,cpu:/outer/inner\n")
    return str(root)


def test_the_memory_limit_with_the_least_left_wins(tmp_path: Path) -> None:
    proc = process(
        tmp_path,
        {
            "outer/inner/memory.max": f"{500 * MIB}\n",
            "outer/inner/memory.current": f"{10 * MIB}\n",
            "outer/memory.max": f"{800 * MIB}\n",
            "outer/memory.current": f"{790 * MIB}\n",
            "outer/memory.stat": f"inactive_file {40 * MIB}\n",
        },
    )
    assert memory_limit(proc) == MemoryLimit(800 * MIB, 750 * MIB)


def test_the_memory_limit_of_version_1(tmp_path: Path) -> None:
    proc = process(
        tmp_path,
        {
            "memory.limit_in_bytes": "9223372036854771712\n",
            "outer/inner/memory.limit_in_bytes": f"{500 * MIB}\n",
            "outer/inner/memory.usage_in_bytes": f"{100 * MIB}\n",
        },
        version=1,
    )
    assert memory_limit(proc) == MemoryLimit(500 * MIB, 100 * MIB)


def test_a_limit_without_a_statement_of_use(tmp_path: Path) -> None:
    assert memory_limit(process(tmp_path, {"outer/memory.max": "4096\n"})) == MemoryLimit(4096, None)


def test_the_smallest_quota_wins(tmp_path: Path) -> None:
    proc = process(tmp_path, {"outer/cpu.max": "50000 100000\n", "outer/inner/cpu.max": "max 100000\n"})
    assert cpu_quota(proc) == 0.5
    assert usable_cpus(proc) == 1


def test_the_quota_of_version_1(tmp_path: Path) -> None:
    files = {"outer/cpu.cfs_quota_us": "300000\n", "outer/cpu.cfs_period_us": "100000\n"}
    assert cpu_quota(process(tmp_path, files, version=1)) == 3.0


def test_where_nothing_can_be_read_nothing_is_limited(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert memory_limit(nowhere) is None
    assert cpu_quota(nowhere) is None
    assert usable_cpus(nowhere) >= 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_affinity_counts() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
    code += "from bigmachine.observe import usable_cpus; print(usable_cpus())"
    done = subprocess.run([sys.executable, "-c", code], env=environ(), capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def environ() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).parents[3] / "src")}
