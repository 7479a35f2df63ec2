"""The next machine is a process that is there already, whatever became of that meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.cluster.raw_driver import AGENT, RawDriver, is_alive, raw_driver, wait_until


def reserves(driver: RawDriver) -> list[int]:
    """Give the processes that are kept in reserve."""
    agent = driver.process.pid
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [pid for pid in map(int, children) if Path(f"/proc/{pid}/comm").read_text().strip() == "bigm-reserve"]


def reserve(driver: RawDriver) -> int:
    """Wait for the one that there is to be."""
    wait_until(lambda: len(reserves(driver)) == 1, "there is one in reserve")
    return reserves(driver)[0]


def test_each_machine_more_is_the_one_in_reserve_and_another_takes_that_place(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1)
        for number in range(2, 5):
            kept = reserve(driver)
            assert driver.launch(number) == kept
            driver.serving(number)
            assert reserve(driver) != kept
        last = reserve(driver)
    assert not is_alive(last)


def test_one_in_reserve_that_was_killed_is_nobody(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1)
        kept = reserve(driver)
        driver.ask(f"Supervisor@{AGENT}-m1.getpid")  # by then the agent knows of it, too
        os.kill(kept, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{kept}"), "the agent has taken note of its end")
        assert driver.launch(2) != kept
        driver.serving(2)
        assert reserve(driver) != kept


def test_a_machine_that_cannot_be_forked_leaves_it_there(tmp_path: Path) -> None:
    with raw_driver(tmp_path) as driver:
        driver.launch(1)
        kept = reserve(driver)
        # A variable that is read when an interpreter starts.
        assert driver.launch(2, environ={**os.environ, "PYTHONHASHSEED": "7"}) != kept
        driver.serving(2)
        assert reserves(driver) == [kept]
