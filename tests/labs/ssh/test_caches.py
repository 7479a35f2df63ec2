"""What can go wrong with a program on its way to a host, and in the folder where the host keeps it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labs.ssh.lab import Driver, Lab
from tests.labs.ssh.test_refusals import fails

#: More than goes to a host in a moment, and does not compress.
BULK, PARTS = 24 << 20, 24


def cache(lab: Lab, host: int) -> Path:
    return lab.files / f"h{host}/home/lab/.cache"


@contextlib.contextmanager
def mounted(lab: Lab, host: int, options: str) -> Iterator[None]:
    """Lay a file system of its own below the home folder of a host's user; where is only seen by the host."""
    lab.enter(
        host, f"install -d -m 700 -o lab -g lab /home/lab/.cache; mount -t tmpfs -o {options} tmpfs /home/lab/.cache"
    )
    try:
        yield
    finally:
        lab.enter(host, "umount -l /home/lab/.cache")


@pytest.fixture
def bulky(lab: Lab) -> Path:
    """A program with a file that is not quickly sent."""
    folder = lab.home / f"bulky-{os.urandom(3).hex()}"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("")
    for number in range(PARTS):
        (folder / f"data-{number}.bin").write_bytes(os.urandom(BULK // PARTS))
    program = folder / "bulky.py"
    program.write_text((lab.programs / "hello.py").read_text())
    return program


def test_a_disk_that_is_full_is_named_and_leaves_nothing_half_built(lab: Lab, bulky: Path) -> None:
    with mounted(lab, 1, "size=90m,mode=700,uid=2000,gid=2000"):
        outcome = lab.run(bulky, "1", hosts="lab@{1}", status=None)
        images = lab.on(1, "ls /home/lab/.cache/bigmachine/v1/images 2>/dev/null; true", user="lab")
    assert outcome.status != 0
    assert re.search(r"ImageError.*(free|room|No space left)", outcome.err), outcome.err
    assert lab.name(1) in outcome.err or lab.address(1) in outcome.err
    assert re.search(r"the disk is full \(\S+/layers/", outcome.err), outcome.err
    built = [name for name in images.split() if "." not in name]  # beside them lie locks and lists of what is lacking
    assert built == []


@pytest.mark.parametrize("options", ["ro,mode=777", "noexec,mode=700,uid=2000,gid=2000"])
def test_a_cache_that_cannot_be_used_is_replaced_by_another_folder(lab: Lab, options: str) -> None:
    with mounted(lab, 1, options):
        outcome = lab.run("hello.py", "1", hosts="lab@{1}")
    assert '"/var/tmp/bigmachine-2000/' in outcome.out


def test_without_any_folder_the_error_names_those_that_were_tried(lab: Lab) -> None:
    places = [lab.files / "h1" / name for name in ("tmp", "vartmp")]
    with mounted(lab, 1, "ro,mode=777"):
        for place in places:
            for path in place.glob("bigmachine-*"):
                path.rename(place / f"{path.name}.aside")
            place.chmod(0o755)
        try:
            kind, text = fails(lab, "lab@{1}")
        finally:
            for place in places:
                place.chmod(0o1777)
                for path in place.glob("*.aside"):
                    path.rename(path.with_suffix(""))
    assert kind == "ProvisionError"
    assert all(folder in text for folder in ("/home/lab/.cache/bigmachine", "/var/tmp/bigmachine-2000"))
    assert lab.name(1) in text


def sending(lab: Lab, program: Path, host: int, *verbs: str) -> Driver:
    """Start a driver, and come back when some of the bulk is on the host."""
    lab.netlab("rate", str(host), "60mbit")
    arrived = cache(lab, host) / "bigmachine" / "v1"
    before = size(arrived)
    driver = lab.drive(program, "1", "spans", *verbs, hosts=f"lab@{{{host}}}")
    end = time.monotonic() + 30
    while size(arrived) < before + BULK // 4:
        assert time.monotonic() < end, "nothing arrives"
        time.sleep(0.05)
    return driver


def size(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found += path.lstat().st_size
    return found


def test_what_has_arrived_before_a_host_died_need_not_travel_again(lab: Lab, bulky: Path) -> None:
    lab.run("hello.py", "1", hosts="lab@{3}")  # so that only the bulk is new
    driver = sending(lab, bulky, 3)
    lab.netlab("crash", "3")
    failed = driver.wait(60)
    assert failed.status != 0
    assert re.search(
        rf"agent {re.escape(lab.address(3))}\S+ does not listen any more, in the phase shipping", failed.err
    )
    lab.netlab("heal", "3")
    lab.sshlab("start", "3")
    outcome = lab.run(bulky, "1", "spans", hosts="lab@{3}")
    sent = sum(int(line.split()[-1]) for line in outcome.out.splitlines() if " shipping" in line)
    assert sent < BULK, f"{sent} bytes were sent again"


def test_a_host_that_falls_silent_while_it_is_sent_something_is_given_up(lab: Lab, bulky: Path) -> None:
    """And the host, which cannot know that the driver has ended, does not wait for it for ever."""
    driver = sending(lab, bulky, 3, "short")
    lab.netlab("drop", "3")
    failed = driver.wait(40)
    assert failed.status != 0
    assert re.search(r"keepalive_lost.*nothing was heard of .* in the phase shipping", failed.err), failed.err
    assert lab.address(3) in failed.err
    lab.wait_quiet(3, timeout=20)


def test_two_drivers_may_bring_the_same_program_to_a_host_at_once(lab: Lab, bulky: Path) -> None:
    both = [lab.drive(bulky, "1", hosts="lab@{2}") for _ in range(2)]
    for driver in both:
        outcome = driver.wait(60)
        assert outcome.status == 0, outcome.err
    lab.check_quiet()


def test_a_file_that_is_edited_while_it_is_sent_arrives_as_one_of_the_two(lab: Lab, bulky: Path) -> None:
    """Or the error says that the program is being changed; half of each is never there."""
    driver = sending(lab, bulky, 2)
    text = bulky.read_text()
    bulky.write_text(text.replace('"RUNNING"', '"RUNNING", "EDITED"'))
    (bulky.parent / f"data-{PARTS - 1}.bin").write_bytes(os.urandom(BULK // 8))
    outcome = driver.wait(60)
    assert outcome.status == 0 or "is being changed" in outcome.err, outcome.err
    lab.netlab("heal", "2")
    lab.check_quiet()


def test_a_driver_that_is_killed_while_it_sends_leaves_nothing_that_runs(lab: Lab, bulky: Path) -> None:
    driver = sending(lab, bulky, 2)
    driver.process.send_signal(signal.SIGKILL)
    driver.wait()
    lab.wait_quiet(2)
    lab.check_quiet()
    lab.netlab("heal", "2")
    assert lab.run(bulky, "1", hosts="lab@{2}").status == 0
