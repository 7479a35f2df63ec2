"""A large program starts on a host when what it loads first has come, and never sees what has not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.labs.ssh.lab import Lab, Outcome

#: What is loaded first comes first where all of it is more than 100 MB.
LARGE, PARTS = 120 << 20, 24
#: So it takes some seconds.
RATE = "200mbit"


def spans(outcome: Outcome) -> dict[tuple[str, str], int]:
    """Return how many bytes were sent, by machine and phase; all phases are over."""
    found = {}
    for line in outcome.out.splitlines():
        if line.startswith("SPAN "):
            _, machine, phase, seconds, sent = line.split()
            assert seconds != "None", line
            found[machine, phase] = int(sent)
    return found


@pytest.fixture
def program(lab: Lab) -> Path:
    """A program with files that it opens only on its machine; the packages it needs are on host 1."""
    lab.run("hello.py", "1", hosts="lab@{1}")
    folder = lab.home / f"large-{os.urandom(3).hex()}"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("")
    for number in range(PARTS):
        (folder / f"data-{number:02}.bin").write_bytes(os.urandom(LARGE // PARTS))
    program = folder / "late.py"
    program.write_text((lab.programs / "late.py").read_text())
    lab.netlab("rate", "1", RATE)
    return program


def test_a_program_runs_before_all_of_it_is_there_and_waits_for_what_it_opens(lab: Lab, program: Path) -> None:
    outcome = lab.run(program, "1", hosts="lab@{1}", timeout=60)
    assert "THERE False" in outcome.out, outcome.out + outcome.err
    assert "SAME True" in outcome.out, outcome.out + outcome.err
    sent = spans(outcome)
    before, rest = sent["m1", "shipping"], sent["m1", "shipping_the_rest"]
    assert rest > 0, outcome.out
    assert LARGE < before + rest < 1.2 * LARGE, outcome.out
    again = lab.run(program, "1", hosts="lab@{1}", timeout=60)
    assert "THERE True" in again.out, again.out + again.err
    assert ("m1", "shipping_the_rest") not in spans(again)


def test_several_hosts_pass_on_what_is_not_needed_at_once(lab: Lab, program: Path) -> None:
    for host in (1, 2, 3):  # those that lack the same pass it on to each other
        lab.on(host, "chmod -R u+w ~/.cache/bigmachine; rm -rf ~/.cache/bigmachine", user="lab")
        lab.netlab("rate", str(host), RATE)
    outcome = lab.run(program, "3", hosts="lab@{1},lab@{2},lab@{3}", timeout=90)
    there = next(line for line in outcome.out.splitlines() if line.startswith("THERE"))
    assert "False" in there, outcome.out + outcome.err
    assert "SAME True True True" in outcome.out, outcome.out + outcome.err
    assert sum(spans(outcome).values()) < 1.5 * LARGE, outcome.out  # they get it from each other


def test_a_program_that_ends_before_its_rest_has_come_ends_quietly(lab: Lab, program: Path) -> None:
    outcome = lab.run(program, "1", "leave", hosts="lab@{1}", timeout=60)
    assert "THERE False" in outcome.out, outcome.out + outcome.err
    assert "could not be brought" not in outcome.err, outcome.err


def test_a_program_that_waits_for_what_does_not_come_is_ended(lab: Lab, program: Path) -> None:
    driver = lab.drive(program, "1", "wait", hosts="lab@{1}")
    driver.expect("THERE False")
    lab.netlab("drop", "1")
    driver.tell()
    outcome = driver.wait(60)
    assert "SAME" not in outcome.out, outcome.out
    assert "DIED" in outcome.out, outcome.out + outcome.err
    lab.wait_quiet(1, timeout=30)
    lab.netlab("heal", "1")


def test_a_program_that_is_edited_while_its_rest_is_sent_is_ended_and_says_so(lab: Lab, program: Path) -> None:
    driver = lab.drive(program, "1", "wait", hosts="lab@{1}")
    driver.expect("THERE False")
    last = program.parent / f"data-{PARTS - 1:02}.bin"
    last.write_bytes(os.urandom(LARGE // PARTS))
    driver.tell()
    outcome = driver.wait(60)
    assert "SAME" not in outcome.out, outcome.out
    assert "being changed while it is sent" in outcome.out + outcome.err, outcome.out + outcome.err
    lab.check_quiet()
