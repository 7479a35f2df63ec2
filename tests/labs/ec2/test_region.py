"""Machines in an emulated region, each on an instance that boots: real systemd and cloud-init, no AWS anywhere."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.labs.ec2.lab import PROGRAMS, PROJECT, Region

BIGPI = PROJECT / "examples" / "bigpi.py"
PI = re.compile(r"^pi ~ 3\.\d+$", re.MULTILINE)


def test_the_example_runs_on_spot_instances(region: Region) -> None:
    driver = region.start(BIGPI, "-n", "1e5", "--nmach", "2", "--bigm.system=ec2", "--bigm.ec2spotonly=true")
    assert PI.search(driver.wait(90))
    assert region.calls()["CreateFleet"] == 1
    region.until(lambda: not region.running(), 30)


def test_the_ladder_goes_on_where_there_is_no_room(region: Region) -> None:
    before = len(region.machines())
    region.fault("CreateFleet", "InsufficientInstanceCapacity", 1, status=500)
    region.fault("RunInstances", "InsufficientInstanceCapacity", 4, status=500)
    region.fault("RunInstances", "RequestLimitExceeded", 2)
    types = "--bigm.ec2type=m5.large,m5a.large,c5.large"
    driver = region.start(BIGPI, "-n", "1e5", "--nmach", "2", "--bigm.system=ec2", types)
    text = driver.wait(90)
    assert PI.search(text)
    assert len(re.findall(r"^i-\w+ +c5\.large .* on-demand ", text, re.MULTILINE)) == 2  # the receipt
    assert len(region.machines()) - before == 2
    region.until(lambda: not region.running(), 30)


def test_machines_come_up_in_time_and_every_end_is_known_at_once(region: Region) -> None:
    driver = region.start(PROGRAMS / "life.py")
    # Twelve seconds on a computer that has nothing else to do.
    assert float(driver.expect("RUNNING", 90)) < 40
    assert driver.expect("WHERE") == "systemd systemd systemd"
    phases = driver.expect("PHASES").split()
    assert phases[:4] == ["requesting", "booting", "reached", "agent"]
    assert driver.expect("READ") == "fs.file-max=134217728"
    assert '"port": 443' in driver.expect("TAIL")
    assert driver.expect("PRICE") == "m5.large m5.large m5.large"
    tags = json.loads(driver.expect("TAGS"))
    assert set(tags) >= {f"bigmachine:{key}" for key in ("session", "driver", "user", "request", "expiry")}
    assert tags["bigmachine:program"] == "life.py"
    assert re.fullmatch("[0-9a-f]{64}", tags["bigmachine:digest"])
    after, is_told = driver.expect("NOTICED").split()
    assert (float(after) < 6, is_told) == (True, "True")
    ends = [driver.expect("STOPPED").split() for _ in range(3)]
    assert [(name, cause) for name, cause, _ in ends] == [("m2", "preempted"), ("m3", "signal"), ("m1", "preempted")]
    assert float(ends[0][2]) < 10
    assert driver.expect("COST") == "3"
    assert "DRAINED" in driver.wait()
    region.until(lambda: not region.running(), 30)


def test_a_host_that_goes_while_its_machine_starts_was_taken(region: Region) -> None:
    driver = region.start(PROGRAMS / "lost.py")
    region.script("unplug", driver.expect("SHIPPING", 90))
    ends = [driver.expect("STOPPED").split() for _ in range(2)]
    assert [cause for cause, _ in ends] == ["preempted", "signal"]
    assert float(ends[1][1]) < 20
    driver.wait()


def test_no_instance_outlives_a_driver_that_is_killed(region: Region) -> None:
    driver = region.start(PROGRAMS / "bereft.py")
    pid = int(driver.expect("RUNNING", 90))
    assert len(region.running()) == 2
    os.kill(pid, signal.SIGKILL)
    lease = 5.0
    took = region.until(lambda: not region.running(), lease + 25)
    # The lease and ten seconds, on a computer that has nothing else to do.
    assert took < lease + 25


def test_a_host_that_does_not_come_up_ends_and_its_console_is_shown(region: Region) -> None:
    driver = region.start(PROGRAMS / "broken.py")
    assert "ended while it was started" in driver.expect("REFUSED", 60)
    console = driver.expect("NOTES")
    assert "on-demand m5.large) the end of its console: " in console
    assert "cloud-init" in console or "systemd" in console
    driver.wait()
    region.until(lambda: not region.running(), 30)


DOCUMENTS = PROJECT / "tests/unit/systems/ec2/documents"


@pytest.mark.parametrize("flavor", ["debian", "ubuntu", "amazon"])
def test_cloud_init_itself_takes_the_document_of_each_flavor(region: Region, flavor: str) -> None:
    for kind in ("plain", "full"):
        assert "Valid cloud-config" in region.schema(DOCUMENTS / f"{flavor}-{kind}.txt")


def test_cloud_init_says_what_it_does_not_take(region: Region, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text('#cloud-config\n{"bootcmd": 7}\n')
    assert "7 is not of type" in region.schema(tmp_path / "wrong")


@pytest.fixture(scope="module")
def refusals(region: Region) -> dict[str, str]:
    text = region.start(PROGRAMS / "refusals.py").wait(60)
    lines = [line.split(" ", 2) for line in text.splitlines()]
    return {words[1]: words[2] for words in lines if words[0] == "REFUSED"}


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("type", "do not exist: [x9.huge]"),
        ("region", "eu-south-2 has no instances of type m3.medium"),
        ("ami", "images belong to a region"),
        ("subnet", "name a subnet of this region"),
        ("group", "name security groups of the subnet's VPC"),
        ("profile", "there is no instance profile 'nobody'"),
        ("key", "name a key pair of this region"),
        ("zone", "there is no zone us-east-1q"),
        ("price", "the cap is $1e-07/h"),
        ("architecture", "the type of instance is arm64"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_bought(
    refusals: dict[str, str], what: str, says: str
) -> None:
    assert says in refusals.get(what, "it was not refused")
