"""Hung is silent and not running; busy, traced and still starting are not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bigmachine.agent.vitals import BLOCKED, Sample, Vitals


def serving(patience: float = 10) -> Vitals:
    vitals = Vitals(patience, 0)
    vitals.serves(0)
    return vitals


def verdicts(vitals: Vitals, samples: Sequence[Sample | None], *, start: int = 1) -> list[bool]:
    """One look a second."""
    return [vitals.is_hung(start + i, sample) for i, sample in enumerate(samples)]


@pytest.mark.parametrize("state", ["T", "D", "S"])
def test_a_silent_process_that_does_not_run_is_hung_once_patience_is_over(state: str) -> None:
    looks = verdicts(serving(), [Sample(state, 5)] * 12)
    # The first look sees CPU time that it did not know of.
    first = looks.index(True)
    assert first in (9, 10)
    assert all(looks[first:])


def test_a_process_that_uses_the_cpu_is_busy_however_long_it_is_silent() -> None:
    assert not any(verdicts(serving(), [Sample("S", 3 * tick) for tick in range(1000)]))


def test_waiting_for_the_gil_is_not_running() -> None:
    assert verdicts(serving(), [Sample("S" if tick % 5 else "R", tick) for tick in range(30)])[-1]


def test_a_process_that_waits_for_a_cpu_is_busy() -> None:
    assert not any(verdicts(serving(), [Sample("R", 5)] * 1000))


def test_a_process_that_answers_is_not_hung_though_it_uses_no_cpu() -> None:
    vitals = serving()
    for second in range(1, 100):
        vitals.answered(second)
        assert not vitals.is_hung(second, Sample("S", 5))


def test_a_process_in_a_debuggers_hands_is_not_hung() -> None:
    assert not any(verdicts(serving(), [Sample("t", 5)] * 1000))


def test_a_program_that_comes_up_may_wait_as_long_as_it_likes() -> None:
    assert not any(verdicts(Vitals(10, 0), [Sample("S", 5)] * 1000))
    assert not any(verdicts(Vitals(10, 0), [Sample("D", 5)] * 1000))


def test_a_program_that_comes_up_and_is_stopped_is_hung() -> None:
    assert verdicts(Vitals(10, 0), [Sample("T", 5)] * 12)[-1]


def test_a_stopped_process_that_goes_on_is_forgiven() -> None:
    vitals = serving()
    verdicts(vitals, [Sample("T", 5)] * 8)
    assert not any(verdicts(vitals, [Sample("S", 6)] + [Sample("S", 6)] * 5, start=9))


def test_where_the_host_tells_nothing_nobody_is_hung() -> None:
    assert not any(verdicts(serving(), [None] * 1000))


def test_one_that_holds_the_interpreter_asleep_has_more_patience_but_not_for_ever() -> None:
    vitals = serving()
    now, looks = 0, 0
    while now < 1000:
        now += 1
        if vitals.is_hung(now, Sample("S", 5)):
            if not vitals.may_be_excused(now):
                break
            looks += 1
            vitals.excuse(now)
    assert now - 10 <= BLOCKED * 10 <= now
    assert looks == BLOCKED - 1  # a look costs something: one in each patience


@pytest.mark.parametrize("state", ["T", "D"])
def test_one_that_is_stopped_or_in_the_kernel_is_not_excused(state: str) -> None:
    vitals = serving()
    verdicts(vitals, [Sample(state, 5)] * 12)
    assert not vitals.may_be_excused(12)
