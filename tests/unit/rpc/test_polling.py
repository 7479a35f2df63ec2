"""When somebody looks rather than sleeps: the odds by themselves, then a real event loop and a real socket."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bigmachine.rpc import polling
from bigmachine.rpc.polling import Odds, PollingLoop, PollingSocket

AT_ONCE, LATE, NEVER = 20e-6, 0.01, 60.0
LIMIT = 200e-6


def waits(odds: Odds, *waited: float) -> list[bool]:
    """Expect as many things that take so long to come; for each, whether it was looked for."""
    looked = []
    for seconds in waited:
        looked.append(odds.favour())
        odds.came(seconds)
    return looked


def proven() -> Odds:
    odds = Odds()
    waits(odds, *[AT_ONCE] * 200)
    return odds


def test_it_begins_when_a_row_of_things_has_come_soon() -> None:
    looked = waits(Odds(), *[100e-6] * 20)
    assert looked == [False] * 16 + [True] * 4


@pytest.mark.parametrize("gap", [0.0005, LATE, NEVER])
def test_what_comes_late_is_never_looked_for(gap: float) -> None:
    assert not any(waits(Odds(), *[gap] * 5000))


def test_a_pause_now_and_then_does_not_end_it() -> None:
    odds = proven()
    for _ in range(20):
        assert all(waits(odds, NEVER, *[AT_ONCE] * 30))


def test_looks_in_vain_end_it_and_are_a_small_part_of_all_that_follows() -> None:
    odds = proven()
    assert waits(odds, *[LATE] * 50).count(True) == 4
    # Whoever now and then is quick, but never when it is looked for, costs a look in seventeen.
    vain = 0
    for _ in range(1700):
        looks = odds.favour()
        vain += looks
        odds.came(LATE if looks else AT_ONCE)
    assert 90 <= vain <= 110


def test_a_shared_core_ends_it_for_longer_each_time_until_it_has_succeeded_for_long() -> None:
    odds = Odds()
    pauses = []
    for _ in range(9):
        pause = 0
        while not odds.favour():
            odds.came(AT_ONCE)
            pause += 1
        pauses.append(pause)
        assert not odds.shared(0.003)
    assert pauses == [16, 16, 32, 64, 128, 256, 512, 1024, 1024]
    waits(odds, *[AT_ONCE] * 1200)
    odds.favour()
    assert not odds.shared(0.003)
    assert waits(odds, *[AT_ONCE] * 17) == [False] * 16 + [True]


def test_somebody_who_has_the_core_for_a_moment_is_borne_for_a_while() -> None:
    odds = proven()
    odds.favour()
    borne = 0
    while odds.shared(30e-6):
        borne += 1
    assert borne == 15
    assert not odds.favour()


class Clock:
    """A clock of its own, on which each look at it and each step back take a moment."""

    def __init__(self) -> None:
        self.now = 100.0
        self.away = 1e-6  # seconds that others have the core, when they get it
        self.steps = 0

    def __call__(self) -> float:
        self.now += 1e-7
        return self.now

    def step_back(self) -> None:
        self.steps += 1
        self.now += self.away


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(polling, "perf_counter", clock)
    monkeypatch.setattr(polling, "STEP_BACK", clock.step_back)
    return clock


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def answered(watched: PollingSocket, ends: tuple[socket.socket, socket.socket], *idents: int) -> None:
    """Make calls whose answers are there at once."""
    here, there = ends
    for ident in idents:
        there.send(b"1")
        watched.expect(ident)
        assert here.recv(1)
        watched.came()


def test_a_thread_looks_for_the_answer_to_a_lone_call_for_200_us_at_most(
    clock: Clock, ends: tuple[socket.socket, socket.socket]
) -> None:
    watched = PollingSocket(ends[0])
    watched.expect(1)
    assert not clock.steps
    answered(watched, ends, *range(2, 100))
    assert not clock.steps
    begin = clock.now
    watched.expect(100)
    assert 150 < clock.steps <= 200
    assert clock.now - begin == pytest.approx(LIMIT, abs=5e-6)


def test_it_stops_looking_when_somebody_else_needs_the_core(
    clock: Clock, ends: tuple[socket.socket, socket.socket]
) -> None:
    watched = PollingSocket(ends[0])
    answered(watched, ends, *range(1, 100))
    clock.away = 0.003
    watched.expect(100)
    assert clock.steps == 1
    watched.came()
    answered(watched, ends, *range(101, 117))
    clock.steps = 0
    watched.expect(117)
    assert clock.steps == 1


def test_a_call_among_many_is_not_looked_for(clock: Clock, ends: tuple[socket.socket, socket.socket]) -> None:
    watched = PollingSocket(ends[0])
    answered(watched, ends, *range(1, 100))
    for ident in range(110, 310, 10):
        watched.expect(ident)
        watched.came()
    assert not clock.steps
    watched.expect(302)
    assert clock.steps


def test_a_loop_that_expects_something_does_not_sleep_and_one_that_has_it_does(clock: Clock) -> None:
    async def run() -> tuple[int, int, int]:
        watched = PollingLoop(asyncio.get_running_loop())
        for _ in range(200):
            watched.expect()
            watched.came()
        rounds = []
        loop = asyncio.get_running_loop()
        select = loop._selector.select  # type: ignore[attr-defined]  # of asyncio's own loop
        timeouts: list[float | None] = []

        def noted(timeout: float | None = None) -> list[object]:
            timeouts.append(timeout)
            return list(select(timeout))

        loop._selector.select = noted  # type: ignore[attr-defined]
        try:
            for do in (watched.expect, watched.came, lambda: setattr(watched, "is_off", True), watched.expect):
                do()
                timeouts.clear()
                await asyncio.sleep(0.1)
                rounds.append(sum(timeout == 0 for timeout in timeouts))
        finally:
            loop._selector.select = select  # type: ignore[attr-defined]
        return rounds[0], rounds[1], rounds[3]

    expecting, not_any_more, off = asyncio.run(run())
    assert 150 <= expecting <= 200 + 3
    assert not_any_more <= 3
    assert off <= 3


def test_where_a_core_cannot_be_given_away_nobody_looks() -> None:
    program = (
        "import os, select; del os.sched_yield, select.poll\n"
        "import socket\n"
        "from bigmachine.rpc.polling import Odds, PollingSocket\n"
        "odds = Odds()\n"
        "looked = [(odds.favour(), odds.came(0.0))[0] for _ in range(100)]\n"
        "a, b = socket.socketpair()\n"
        "PollingSocket(a).expect(1)\n"
        "print(any(looked))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
    assert polling._CAN_LOOK
