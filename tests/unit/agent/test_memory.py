"""A pool that runs short is told of once, with the machine that takes the most of it, until there is room again."""

from __future__ import annotations

import os
import resource

import pytest

from bigmachine.agent.watch.memory import NEAR_PERIOD, USUAL_PERIOD, Alarms, Looker, Pool, Use, period


def use(machine: str, used: int, *, resident: int = 10, pool: str = "host", pressure: float | None = None) -> Use:
    return Use(machine, resident, (Pool(pool, used, 100, pressure),))


def told(alarms: Alarms, *uses: Use) -> list[tuple[str, str]]:
    return [(shortage.machine, shortage.pool.name) for shortage in alarms.judge(uses)]


def test_what_is_short_is_told_of_once() -> None:
    alarms = Alarms()
    assert told(alarms, use("m1", 89)) == []
    assert told(alarms, use("m1", 90)) == [("m1", "host")]
    for used in (91, 99, 85, 95, 81, 90):
        assert told(alarms, use("m1", used)) == []


def test_it_is_told_of_again_after_there_was_room() -> None:
    alarms = Alarms()
    assert told(alarms, use("m1", 95)) == [("m1", "host")]
    assert told(alarms, use("m1", 79)) == []
    assert told(alarms, use("m1", 95)) == [("m1", "host")]


def test_the_machine_that_takes_the_most_is_named_and_another_that_gets_ahead() -> None:
    alarms = Alarms()
    assert told(alarms, use("m1", 92, resident=5), use("m2", 92, resident=50)) == [("m2", "host")]
    assert told(alarms, use("m1", 93, resident=60), use("m2", 93, resident=50)) == [("m1", "host")]
    assert told(alarms, use("m1", 93, resident=40), use("m2", 93, resident=50)) == []


def test_each_pool_is_judged_by_itself() -> None:
    alarms = Alarms()
    assert told(alarms, use("m1", 95, pool="a"), use("m2", 95, pool="b")) == [("m1", "a"), ("m2", "b")]
    assert told(alarms, use("m1", 10, pool="a"), use("m2", 95, pool="b")) == []


@pytest.mark.parametrize(
    ("used", "pressure", "is_short"), [(75, 50.0, True), (75, 5.0, False), (50, 99.0, False), (75, None, False)]
)
def test_pressure_counts_where_much_is_in_use(used: int, pressure: float | None, is_short: bool) -> None:
    assert bool(told(Alarms(), use("m1", used, pressure=pressure))) is is_short


def test_a_look_comes_sooner_the_faster_and_fuller_a_pool() -> None:
    assert period([use("m1", 50)], [use("m1", 50)], 1) == USUAL_PERIOD
    assert period([use("m1", 71)], [use("m1", 71)], 1) == NEAR_PERIOD
    assert period([use("m1", 50)], [use("m1", 10)], 0.5) == pytest.approx(40 / 80 / 4)
    assert period([use("m1", 50)], [use("m1", 60)], 0.5) == USUAL_PERIOD
    assert period([], [], 0) == USUAL_PERIOD


def test_this_process_is_looked_at() -> None:
    (seen,) = Looker().look({"me": os.getpid(), "gone": 2**22 + 1})
    assert seen.machine == "me"
    assert seen.resident > 1 << 20
    assert "the host's memory" in [pool.name for pool in seen.pools]
    assert all(0 < pool.used < pool.limit for pool in seen.pools)


def test_a_limit_of_a_process_is_a_pool_of_its_own() -> None:
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
        (seen,) = Looker().look({"me": os.getpid()})
        os._exit(0 if [pool.limit for pool in seen.pools if "RLIMIT_AS" in pool.name] == [1 << 40] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
