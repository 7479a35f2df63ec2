"""What is counted of calls, and how it is told."""

from __future__ import annotations

import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmachine.rpc.statistics import BUCKETS, MethodStats, Statistics


def test_calls_errors_times_and_bytes_add_up() -> None:
    stats = MethodStats()
    stats.count(0.5, False, 10, 100)
    stats.count(0.25, True, 20, 200)
    told = stats.snapshot()
    assert (told.calls, told.errors, told.total, told.longest) == (2, 1, 0.75, 0.5)
    assert (told.bytes_in, told.bytes_out) == (30, 300)
    assert sum(told.histogram) == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=600))
def test_many_calls_are_added_up_as_few_are(seconds: list[float]) -> None:
    stats = MethodStats()
    for each in seconds:
        stats.count(each, each > 50, 1, 2)
    told = stats.snapshot()
    assert told.calls == sum(told.histogram) == len(seconds)
    assert told.errors == sum(each > 50 for each in seconds)
    assert told.longest == max(seconds)
    assert told.total == pytest.approx(sum(seconds))
    assert (told.bytes_in, told.bytes_out) == (len(seconds), 2 * len(seconds))


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, 0), (0.9e-6, 0), (1e-6, 1), (3e-6, 2), (4e-6, 3), (1.0, 20), (3600.0, 32), (1e9, BUCKETS - 1)],
)
def test_a_latency_counts_in_the_bucket_that_is_wide_enough(seconds: float, bucket: int) -> None:
    stats = MethodStats()
    stats.count(seconds, False, 0, 0)
    assert stats.snapshot().histogram[bucket] == 1


def test_a_quantile_is_the_end_of_its_bucket() -> None:
    stats = MethodStats()
    assert stats.quantile(0.5) == 0.0
    for _ in range(90):
        stats.count(10e-6, False, 0, 0)
    for _ in range(10):
        stats.count(1.0, False, 0, 0)
    assert stats.quantile(0.5) == 16e-6
    assert stats.quantile(0.9) == 16e-6
    assert stats.quantile(0.95) == pytest.approx(1.048576)


def test_a_method_that_is_called_by_name_and_by_function_is_told_as_one() -> None:
    statistics = Statistics()
    statistics.of("CirclePi.sample").count(1.0, False, 1, 2)
    statistics.of("@pi:CirclePi.sample").count(3.0, True, 10, 20)
    statistics.of("@pi:CirclePi.other").count(1.0, False, 0, 0)
    told = statistics.snapshot()
    assert sorted(told) == ["CirclePi.other", "CirclePi.sample"]
    both = told["CirclePi.sample"]
    assert (both.calls, both.errors, both.total, both.longest) == (2, 1, 4.0, 3.0)
    assert (both.bytes_in, both.bytes_out, sum(both.histogram)) == (11, 22, 2)


def test_no_call_is_lost_where_several_threads_count_and_others_look() -> None:
    stats = MethodStats(threading.Lock())
    each, was = 20_000, sys.getswitchinterval()
    done = threading.Event()

    def count() -> None:
        for n in range(each):
            stats.count(1e-6, n % 2 == 0, 1, 2)

    def look() -> None:
        while not done.is_set():
            stats.snapshot()

    counting = [threading.Thread(target=count) for _ in range(4)]
    looking = threading.Thread(target=look)
    sys.setswitchinterval(1e-6)
    try:
        for thread in (looking, *counting):
            thread.start()
        for thread in counting:
            thread.join()
    finally:
        done.set()
        looking.join()
        sys.setswitchinterval(was)
    told = stats.snapshot()
    assert (told.calls, told.errors, told.bytes_in, told.bytes_out) == (4 * each, 2 * each, 4 * each, 8 * each)
