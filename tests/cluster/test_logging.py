"""What machines log is in the driver's logging, with its level and logger, once."""

from __future__ import annotations

import re

import pytest

from tests.cluster.programs import RunProgram, WriteProgram

PROGRAM = """
import logging, os, sys, bigmachine
FORMAT = "%(levelname)s|%(name)s|%(processName)s|%(message)s"
if os.environ["WHEN"] == "before":
    logging.basicConfig(level=logging.INFO, format=FORMAT)

class Service:
    def call(self):
        log = logging.getLogger("svc.x")
        log.info("an info")
        print("between")
        log.warning("a warning with %s", "arguments")
        log.debug("too fine")
        try:
            raise ValueError("no luck")
        except ValueError:
            logging.exception("caught")
    def configure(self):
        logging.basicConfig(level=logging.INFO, format="own %(message)s")
        logging.getLogger("svc.x").info("an info")
    def die(self):
        for number in range(100):
            logging.getLogger("svc.x").error("last %d", number)
        os.kill(os.getpid(), 9)
    def flood(self):
        for number in range(20_000):
            logging.getLogger("svc.x").error("%d %s", number, "x" * (number % 7000))

session = bigmachine.start("local")
if os.environ["WHEN"] == "after":
    logging.basicConfig(level=logging.INFO, format=FORMAT)
logging.getLogger("bigmachine").setLevel(logging.CRITICAL)
with session:
    try:
        session.start(1, services=[Service()])[0].call("Service." + sys.argv[1])
    except bigmachine.MachineStopped:
        pass
"""


def logged(run_program: RunProgram, write: WriteProgram, when: str, method: str) -> list[str]:
    outcome = run_program(write("app.py", PROGRAM), method, environ={"WHEN": when})
    assert outcome.out == ""
    return outcome.err.splitlines()


@pytest.mark.parametrize("when", ["before", "after"])
def test_records_are_formatted_and_filtered_by_the_driver(
    run_program: RunProgram, write: WriteProgram, when: str
) -> None:
    lines = logged(run_program, write, when, "call")
    assert [line for line in lines if "|" in line] == [
        "INFO|svc.x|m1|m1: an info",
        "WARNING|svc.x|m1|m1: a warning with arguments",
        "ERROR|root|m1|m1: caught",
    ]
    assert lines.count("m1: between") == 1
    assert "ValueError: no luck" in lines
    assert len([line for line in lines if "~" not in line]) == 8  # newer Pythons mark the place


def test_where_nobody_configured_logging_level_and_logger_are_said(
    run_program: RunProgram, write: WriteProgram
) -> None:
    lines = logged(run_program, write, "never", "call")
    assert "m1: WARNING svc.x: a warning with arguments" in lines
    assert "m1: ERROR root: caught" in lines
    assert "m1: ValueError: no luck" in lines
    assert not any("an info" in line for line in lines)
    assert all(line.startswith("m1: ") for line in lines)


@pytest.mark.parametrize("when", ["after", "never"])
def test_a_handler_that_a_service_sets_up_prints_as_always(
    run_program: RunProgram, write: WriteProgram, when: str
) -> None:
    assert logged(run_program, write, when, "configure") == ["m1: own an info"]


def test_records_survive_their_machine(run_program: RunProgram, write: WriteProgram) -> None:
    lines = logged(run_program, write, "after", "die")
    assert [line for line in lines if "last" in line] == [f"ERROR|svc.x|m1|m1: last {n}" for n in range(100)]


def test_a_flood_of_records_arrives_whole(run_program: RunProgram, write: WriteProgram) -> None:
    lines = logged(run_program, write, "before", "flood")
    found = [re.fullmatch(r"ERROR\|svc\.x\|m1\|m1: (\d+) (x*)", line) for line in lines]
    assert [int(match[1]) for match in found if match] == list(range(20_000))
    assert all(match and len(match[2]) == int(match[1]) % 7000 for match in found)
