"""What a process tells of itself: how it is asked, its numbers, and samples from inside."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from bigmachine.errors import InvalidCall
from bigmachine.observe import facts, inside, sampler
from bigmachine.observe.openmetrics import openmetrics
from bigmachine.observe.vars import Reading
from bigmachine.rpc.statistics import Statistics


@pytest.mark.parametrize(
    ("what", "options", "told"),
    [
        ("blood", {}, "there is cpu, heap, mutex, stacks, vars"),
        ("heap", {"speed": 1}, "there is mode, seconds, gc"),
        ("stacks", {"deep": 1}, "there is nothing"),
        ("cpu", {"seconds": -1}, "it has to be a number above 0"),
        ("cpu", {"seconds": float("inf")}, "at most 3600"),
        ("mutex", {}, "BIGMACHINE_MUTEX"),
    ],
)
def test_what_there_is_not_is_refused(what: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidCall, match=told):
        asyncio.run(inside.observe(what, options, Statistics(), time.time()))


def test_an_error_in_the_thread_reaches_whoever_asked() -> None:
    def fail() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        asyncio.run(inside.in_thread(fail))


def test_calls_are_told_as_readings_that_agree_with_the_counts() -> None:
    statistics = Statistics()
    for milliseconds in (1, 1, 100):
        statistics.of("Shop.sell").count(milliseconds / 1e3, milliseconds == 100, 10, 20)
    told = facts.of_calls(statistics.snapshot())
    assert told['rpc.calls{method="Shop.sell"}'].value == 3
    assert told['rpc.errors{method="Shop.sell"}'].value == 1
    seconds = told['rpc.seconds{method="Shop.sell"}']
    assert (seconds.count, round(seconds.value, 3)) == (3, 0.102)
    assert 0.001 <= seconds.quantile(0.5) <= 0.0025
    assert 0.1 <= seconds.quantile(0.99) <= 0.25


def test_labels_are_escaped_and_joined_with_the_machines() -> None:
    told = {facts.labelled("hits", path='a"b\\c\n'): Reading("counter", 2), "prometheus:x_total": Reading("counter", 1)}
    lines = openmetrics({"m1": told}).splitlines()
    assert 'bigmachine_hits_total{machine="m1",path="a\\"b\\\\c\\n"} 2' in lines
    assert 'x_total{machine="m1"} 1' in lines
    assert "# TYPE x counter" in lines


def test_a_process_samples_who_uses_its_processor_and_not_who_waits() -> None:
    stop = threading.Event()

    def spins() -> None:
        while not stop.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=spins, name="busy"), threading.Thread(target=stop.wait, name="idle")]
    for thread in threads:
        thread.start()
    try:
        profile = sampler.sample(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    seen = {dict(labels)["thread"]: values for (_, labels), values in profile.samples.items()}
    assert "busy" in seen
    assert "idle" not in seen
    assert profile.total(1) < 1e9
    assert "biased" in profile.comments[0]
