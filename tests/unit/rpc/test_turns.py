"""When a loop that carries large values lets other threads run: the counts, and that they do run."""

from __future__ import annotations

import os
import threading
import time

import pytest

from bigmachine.rpc.turns import Turns

MEBIBYTE = 2**20
PIECE = 64 * 1024


class Others:
    """Other threads, on a clock of their own: how long they take when they have their turn."""

    def __init__(self, *takes: float) -> None:
        self.now = 100.0
        self.turns = 0
        self.takes = list(takes)

    def run(self) -> None:
        self.turns += 1
        self.now += self.takes.pop(0) if self.takes else 0.0

    def clock(self) -> float:
        return self.now


def test_there_is_a_turn_after_each_64_kibibytes_however_they_come() -> None:
    others = Others()
    turns = Turns(others.run, others.clock)
    for _ in range(MEBIBYTE // 16384):
        turns.carried(16384)
    assert others.turns == 16
    turns.carried(PIECE)
    assert others.turns == 17
    turns.carried(PIECE - 1)
    assert others.turns == 17


def test_what_takes_its_time_has_the_next_turn_later() -> None:
    others = Others(0.0002, 0.005)
    turns = Turns(others.run, others.clock)
    turns.carried(PIECE)
    turns.carried(PIECE)
    assert others.turns == 1
    others.now += 0.00021  # a short one: as long as it took
    turns.carried(PIECE)
    assert others.turns == 2
    others.now += 0.03  # somebody computes: eight times as long
    turns.carried(PIECE)
    assert others.turns == 2
    others.now += 0.011
    turns.carried(PIECE)
    assert others.turns == 3


def test_a_turn_can_be_given_whatever_was_carried() -> None:
    others = Others(0.0001)
    turns = Turns(others.run, others.clock)
    turns.give()
    turns.give()
    assert others.turns == 1
    others.now += 0.00011
    turns.give()
    assert others.turns == 2


def test_nothing_is_done_where_a_thread_cannot_step_back() -> None:
    others = Others()
    turns = Turns(None, others.clock)
    turns.carried(MEBIBYTE)
    turns.give()
    assert others.turns == 0


@pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="this system has no sched_yield")
def test_a_thread_that_waits_for_the_interpreter_has_it_at_the_next_turn() -> None:
    """On one core, with a switch interval that would make it wait for much longer."""
    turns = Turns()
    ran: list[float] = []
    go = threading.Event()

    def other() -> None:
        go.wait(10)
        ran.append(time.perf_counter())

    cores, interval = _on_one_core(), _switch_interval(5.0)
    try:
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.05)  # it waits
        begin = time.perf_counter()
        go.set()
        while not ran and time.perf_counter() < begin + 4:
            turns.carried(PIECE)
        took = time.perf_counter() - begin
        thread.join(10)
    finally:
        _switch_interval(interval)
        _to_cores(cores)
    assert ran
    assert took < 3


def _switch_interval(seconds: float) -> float:
    import sys

    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    return before


def _on_one_core() -> set[int]:
    if not hasattr(os, "sched_getaffinity"):
        return set()
    before: set[int] = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    return before


def _to_cores(cores: set[int]) -> None:
    if cores:
        os.sched_setaffinity(0, cores)
