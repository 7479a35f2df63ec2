"""Machines in an emulated region, each on an instance that boots: real systemd and cloud-init, no AWS anywhere."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.labs.ec2.lab import ENDED, PROGRAMS, PROJECT, Region

BIGPI = PROJECT / "examples" / "bigpi.py"
PI = re.compile(r"^pi ~ 3\.\d+$", re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def forgotten(region: Region) -> list[str]:
    """Instances whose drivers were killed while they bought them; they end beside the other tests.

    On the first nothing of ours runs, and it may live for a minute; nobody ever calls the others.
    """
    ids = [
        *region.killed_in_purchase(PROGRAMS / "overdue.py", 1),
        *region.killed_in_purchase(PROGRAMS / "bereft.py", 2),
    ]
    region.aside.update(ids)
    return ids


def test_the_example_runs_on_spot_instances(region: Region) -> None:
    driver = region.start(BIGPI, "-n", "1e5", "--nmach", "2", "--bigm.system=ec2", "--bigm.ec2spotonly=true")
    assert PI.search(driver.wait(90))
    assert region.calls()["CreateFleet"] == 1
    region.ends_soon()


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
    region.ends_soon()


def test_machines_come_up_in_time_and_every_end_is_known_at_once(region: Region) -> None:
    driver = region.start(PROGRAMS / "life.py")
    # Twelve seconds on a computer that has nothing else to do.
    assert float(driver.expect("RUNNING", 90)) < 40
    assert driver.expect("WHERE") == "systemd systemd systemd"
    phases = driver.expect("PHASES").split()
    assert phases[:3] == ["requesting", "booting", "bringing-up-its-agent"]
    sent = [int(size) for size in driver.expect("SENT").split()]
    assert len(sent) == 3
    assert all(size > 500_000 for size in sent)  # the agent's kit
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
    region.ends_soon()


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


def test_what_a_driver_bought_and_never_knew_of_is_found_by_its_tags_and_reaped(region: Region) -> None:
    ids = region.killed_in_purchase(PROGRAMS / "bereft.py", 2)
    listed = region.start(PROGRAMS / "reaping.py").wait().splitlines()
    assert listed[0] == "REGIONS True"
    left = {line for line in listed if line.startswith("LEFT instance")}
    ours = [line for line in left if any(each in line for each in ids)]
    assert len(ours) == 2
    assert all("bereft.py, session" in line for line in ours)
    assert not any(line.startswith(("WOULD", "REAPED")) for line in listed)  # no session was named, none is overdue
    (session,) = {line.split()[3] for line in ours}
    reaped = region.start(PROGRAMS / "reaping.py", session).wait().splitlines()
    for word in ("WOULD", "REAPED"):
        assert sorted(line.split()[2] for line in reaped if line.startswith(f"{word} instance")) == ids
    region.ends_soon(15)


def test_nothing_stays_wherever_a_start_fails(region: Region) -> None:
    before = len(region.machines())
    region.fault("RunInstances", "InternalError", 4, status=500, after=True)
    text = region.start(PROGRAMS / "fails.py").wait(120)
    failed = dict(line.split()[1:3] for line in text.splitlines() if line.startswith("FAILED"))
    assert failed == {
        "lost": "ProvisionError",
        "raising": "Broken",
        "placing": "Broken",
        "interrupt": "KeyboardInterrupt",
    }
    assert len(region.machines()) - before == 8
    region.ends_soon()


def test_a_budget_that_is_used_up_ends_all_instances_and_buys_no_more(region: Region) -> None:
    driver = region.start(PROGRAMS / "budget.py")
    assert driver.expect("ONE", 90) == "True True"
    assert "the budget of $2.5e-07 is used up" in driver.expect("REFUSED")
    assert "cancelled machine m1 stopped (cancelled): the budget of" in driver.expect("STOPPED")
    driver.wait()
    region.ends_soon()


def test_a_bucket_keeps_programs_and_is_not_needed(region: Region) -> None:
    text = region.start(PROGRAMS / "bucket.py").wait(150)
    told = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    said, sent, objects, _ = zip(*(told[name] for name in ("FILLED", "FETCHED", "WITHOUT")), strict=True)
    assert set(said) == {"hello"}
    assert "the bucket 'no-such-bucket' cannot be used" in text
    # A program starts before all of it has come, so the first session may leave a rest to the second.
    assert 10 < int(objects[0]) <= int(objects[1])
    assert int(sent[1]) < int(sent[2]) / 10
    region.ends_soon()


def test_a_host_that_does_not_come_up_ends_and_its_console_is_shown(region: Region) -> None:
    driver = region.start(PROGRAMS / "broken.py")
    assert "ended while it was started" in driver.expect("REFUSED", 60)
    console = driver.expect("NOTES")
    assert "on-demand m5.large) the end of its console: " in console
    assert "cloud-init" in console or "systemd" in console
    driver.wait()
    region.ends_soon()


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
    region.fault("DescribeInstanceTypes", "RequestExpired", 1, status=400)
    region.fault("CreateFleet", "UnfulfillableCapacity", 2, status=500)
    region.fault("RunInstances", "InsufficientInstanceCapacity", 6, status=500)
    before = len(region.machines())
    text = region.start(PROGRAMS / "refusals.py").wait(120)
    assert len(region.machines()) == before, text
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
        ("zone", "no availability zone us-east-1q in us-east-1: see `aws ec2 describe-availability-zones`"),
        ("price", "the cap is $1e-07/h"),
        ("budget", "its price is not known, and there is a budget of $1"),
        ("expired", "the credentials have expired or this computer's clock is wrong: log in again"),
        ("credentials", "set AWS_PROFILE, or log in"),
        ("userdata", "and EC2 takes 16384: leave out additional files"),
        ("capacity", "on-demand c5.large in any zone: 0 of 3 (InsufficientInstanceCapacity"),
        ("spot", "spot m5.large, m5a.large, c5.large in us-east-1a, us-east-1b"),
        ("architecture", "the type of instance is arm64"),
        ("processor", "an instance of type m6g.large: "),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_bought(
    refusals: dict[str, str], what: str, says: str
) -> None:
    assert says in refusals.get(what, "it was not refused")


def test_a_region_without_room_is_given_up_soon(refusals: dict[str, str]) -> None:
    for what in ("capacity", "spot"):
        took = re.search(r"\[([0-9.]+) s\]$", refusals[what])
        assert took is not None
        assert float(took[1]) < 30


def test_an_instance_that_nobody_ever_called_ends_by_itself(region: Region, forgotten: list[str]) -> None:
    region.until(lambda: all(region.machines()[each]["state"] in ENDED for each in forgotten[1:]), 60)


def test_the_maximum_life_ends_a_host_on_which_nothing_of_ours_works(region: Region, forgotten: list[str]) -> None:
    region.until(lambda: region.machines()[forgotten[0]]["state"] in ENDED, 120)  # a minute from its start


def test_whatever_these_tests_started_ended_with_its_driver(region: Region) -> None:
    if not region.ended():  # this test was chosen alone
        test_the_example_runs_on_spot_instances(region)
    assert [(sorted(ids), took) for ids, within, took in region.ended() if took > within] == []
    assert not region.running()
