"""The texts of Linux's control groups are read as its documentation says."""

from __future__ import annotations

import pytest

from bigmachine.observe import cgroups
from bigmachine.observe.cgroups import Hierarchy

UNIFIED = "0::/user.slice/job-1.scope\n"
UNIFIED_MOUNT = "35 25 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
SEPARATE = "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


def mount_1(controllers: str, root: str = "/", point: str = "/sys/fs/cgroup/x") -> str:
    return f"40 30 0:35 {root} {point} rw - cgroup cgroup rw,{controllers}\n"


def test_version_2_is_read_from_the_group_outwards_to_the_mount() -> None:
    assert cgroups.hierarchies(UNIFIED, UNIFIED_MOUNT, "memory") == [
        Hierarchy(
            2,
            (
                "/sys/fs/cgroup/user.slice/job-1.scope",
                "/sys/fs/cgroup/user.slice",
                "/sys/fs/cgroup",
            ),
        )
    ]


def test_version_1_is_read_from_the_controllers_own_hierarchy() -> None:
    mounts = mount_1("memory", point="/cg/memory") + mount_1("cpu,cpuacct", point="/cg/cpu")
    found = cgroups.hierarchies(SEPARATE, mounts, "cpu")
    assert found == [Hierarchy(1, ("/cg/cpu/docker/abc", "/cg/cpu/docker", "/cg/cpu"))]


def test_a_hybrid_host_has_both() -> None:
    found = cgroups.hierarchies(SEPARATE + "0::/\n", mount_1("memory") + UNIFIED_MOUNT, "memory")
    assert [one.version for one in found] == [1, 2]
    assert found[1].directories == ("/sys/fs/cgroup",)


def test_a_container_whose_mount_begins_at_its_own_group_sees_only_that() -> None:
    found = cgroups.hierarchies(SEPARATE, mount_1("memory", root="/docker/abc", point="/cg"), "memory")
    assert found == [Hierarchy(1, ("/cg",))]


@pytest.mark.parametrize("group", ["/elsewhere/deep", "/../outside", "/docker/abcdef"])
def test_a_group_outside_of_the_mount_is_read_at_the_mounts_root(group: str) -> None:
    found = cgroups.hierarchies(f"5:memory:{group}\n", mount_1("memory", root="/docker/abc", point="/cg"), "memory")
    assert found == [Hierarchy(1, ("/cg",))]


def test_escaped_characters_in_a_mount_are_unescaped() -> None:
    found = cgroups.hierarchies("0::/\n", "1 1 0:1 / /my\\040cg rw - cgroup2 none rw\n", "memory")
    assert found == [Hierarchy(2, ("/my cg",))]


def test_a_group_name_may_contain_a_colon() -> None:
    assert cgroups.groups("0::/a:b\n") == {"": "/a:b"}


@pytest.mark.parametrize("text", ["", "garbage", "0\n::\n", ":::\n"])
def test_garbage_is_no_group(text: str) -> None:
    assert cgroups.hierarchies(text, UNIFIED_MOUNT + "garbage\n1 2 - x\n", "memory") == []


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max\n", None), ("1073741824\n", 2**30), ("9223372036854771712\n", None), ("-1", None), ("", None), ("0\n", 0)],
)
def test_a_memory_limit(text: str, limit: int | None) -> None:
    assert cgroups.memory_limit_of(text) == limit


@pytest.mark.parametrize(
    ("usage", "statistics", "used"),
    [
        ("1000\n", "anon 500\ninactive_file 300\n", 700),
        ("1000\n", "inactive_file 1\ntotal_inactive_file 300\n", 700),
        ("1000\n", "", 1000),
        ("100\n", "inactive_file 300\n", 0),
        ("", "inactive_file 300\n", None),
    ],
)
def test_memory_in_use_is_without_the_cache_that_would_be_dropped_first(
    usage: str, statistics: str, used: int | None
) -> None:
    assert cgroups.memory_used_of(usage, statistics) == used


@pytest.mark.parametrize(
    ("text", "quota"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("200000\n", 2.0), ("", None), ("5 0", None), ("0 100", None)],
)
def test_a_quota_of_version_2(text: str, quota: float | None) -> None:
    assert cgroups.cpu_quota_of(text) == quota


@pytest.mark.parametrize(
    ("quota", "period", "processors"), [("-1\n", "100000\n", None), ("50000\n", "100000\n", 0.5), ("", "", None)]
)
def test_a_quota_of_version_1(quota: str, period: str, processors: float | None) -> None:
    assert cgroups.cpu_quota_of_version_1(quota, period) == processors


@pytest.mark.parametrize(
    ("processors", "quota", "usable"), [(8, None, 8), (8, 2.0, 2), (8, 2.9, 2), (8, 0.5, 1), (2, 16.0, 2), (0, None, 1)]
)
def test_usable_processors(processors: int, quota: float | None, usable: int) -> None:
    assert cgroups.usable(processors, quota) == usable
