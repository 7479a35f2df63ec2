"""Hosts pass a program on to each other, also where they lack different parts of it: from the driver it goes once."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.labs.ssh.lab import Lab

#: Of each part of the program; it does not compress.
PART = 10 << 20
#: Beside the program: logins, the agents' calls, the library itself.
BESIDE = 4 << 20


@pytest.fixture(scope="module", autouse=True)
def known(whole_lab: Lab) -> None:
    """Have the library and its dependencies on all hosts."""
    whole_lab.run("hello.py", "3", hosts="lab@{1},lab@{2},lab@{3}")


@pytest.fixture
def parts(lab: Lab) -> tuple[Path, Path]:
    """Two folders of bulk that a program may have on its path."""
    folders = lab.home / f"part-{os.urandom(3).hex()}", lab.home / f"part-{os.urandom(3).hex()}"
    for folder in folders:
        folder.mkdir()
        for number in range(10):
            (folder / f"data-{number}.bin").write_bytes(os.urandom(PART // 10))
    return folders


def traffic(lab: Lab, host: int, way: str) -> int:
    """Return the bytes that a host has sent ("tx") or received ("rx") so far."""
    (link,) = json.loads(lab.netlab("exec", str(host), "ip", "-json", "-stats", "link", "show", "eth0").stdout)
    passed = link["stats64"][way]["bytes"]
    assert isinstance(passed, int)
    return passed


def start(lab: Lab, *path: Path, hosts: str) -> list[int]:
    """Start the program with these folders on its path; gives what the driver sent for it, and each host received."""
    counters = [(0, "tx"), (1, "rx"), (2, "rx"), (3, "rx")]
    before = [traffic(lab, *counter) for counter in counters]
    lab.run("hello.py", str(hosts.count("@")), hosts=hosts, environ=environ_with(*path), timeout=90)
    return [traffic(lab, *counter) - begin for counter, begin in zip(counters, before, strict=True)]


def environ_with(*path: Path) -> dict[str, str]:
    """Put folders on a program's path."""
    return {"PYTHONPATH": ":".join(map(str, (Path(__file__).parents[3] / "src", *path)))}


def holds(passed: int, parts: int) -> bool:
    """Whether so many parts went over a line, and nothing twice."""
    return parts * PART < passed < parts * PART * 1.05 + BESIDE


def test_a_host_that_has_half_of_it_shares_the_other_half(lab: Lab, parts: tuple[Path, Path]) -> None:
    first, second = parts
    start(lab, first, hosts="lab@{1}")
    passed = start(lab, first, second, hosts="lab@{1},lab@{2},lab@{3}")
    assert list(map(holds, passed, (2, 1, 2, 2))) == [True] * 4, passed


def test_hosts_that_have_different_halves_share_what_they_lack_with_one_that_has_nothing(
    lab: Lab, parts: tuple[Path, Path]
) -> None:
    first, second = parts
    start(lab, first, hosts="lab@{1}")
    start(lab, second, hosts="lab@{2}")
    sent, *_, last = start(lab, first, second, hosts="lab@{1},lab@{2},lab@{3}")
    assert holds(sent, 2), sent
    assert holds(last, 2), last


@pytest.mark.parametrize("dead", [1, 2])
def test_a_host_that_dies_in_the_middle_fails_alone(lab: Lab, parts: tuple[Path, Path], dead: int) -> None:
    """Whether it was the last, which has a half, or stood before others."""
    first, second = parts
    start(lab, first, hosts="lab@{1}")
    for host in (1, 2, 3):
        lab.netlab("rate", str(host), "80mbit")
    before = traffic(lab, dead, "rx")
    driver = lab.drive("each.py", "3", hosts="lab@{1},lab@{2},lab@{3}", environ=environ_with(first, second))
    end = time.monotonic() + 40
    while traffic(lab, dead, "rx") < before + PART // 4:
        assert time.monotonic() < end, "nothing arrives"
        time.sleep(0.05)
    lab.netlab("crash", str(dead))
    outcome = driver.wait(80)
    lab.netlab("heal", str(dead))
    lab.sshlab("start", str(dead))
    told = sorted(line.split()[0] for line in outcome.out.splitlines())
    assert told == ["FAILED", "RUNNING", "RUNNING", "STARTING"], outcome.out + outcome.err


def test_every_machine_has_its_phases_whoever_its_host_had_the_program_from(lab: Lab, parts: tuple[Path, Path]) -> None:
    outcome = lab.run("hello.py", "3", "spans", hosts="lab@{1},lab@{2},lab@{3}", environ=environ_with(*parts))
    spans = [line.split()[1:] for line in outcome.out.splitlines() if line.startswith("SPAN ")]
    sent = {(name, phase): int(size) for name, phase, _, size in spans}
    assert {name for name, phase in sent if phase == "assembling"} == {"m1", "m2", "m3"}, spans
    by_us = sorted(size for (_, phase), size in sent.items() if phase == "shipping")
    assert by_us[2] > 2 * PART, spans
    assert by_us[1] < BESIDE, spans
