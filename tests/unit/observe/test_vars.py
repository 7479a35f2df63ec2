"""The registry of variables: counting, adding up over machines, and what Prometheus' own parser makes of it."""

import math
import pickle
import threading

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from bigmachine.observe import vars as registry
from bigmachine.observe.openmetrics import openmetrics
from bigmachine.observe.vars import Counter, Gauge, Histogram, Info, Reading, Registry, merged


def some() -> dict[str, Reading]:
    own = Registry()
    own.get("requests", Counter, 'answered "well"\n').inc(3)
    own.get("queue.length", Gauge, "").set(2.5)
    own.get("model", Info, "").facts = {"version": 'a"b\\c\n'}
    times = own.get("seconds", Histogram, "")
    for n in range(1, 101):
        times.observe(n / 100)
    return own.read()


def test_counters_count_over_threads() -> None:
    counted = Counter()

    def count() -> None:
        for _ in range(2000):
            counted.inc()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.value == 16_000
    with pytest.raises(ValueError, match="only grows"):
        counted.inc(-1)


def test_a_name_is_one_variable_of_one_kind() -> None:
    assert registry.counter("test.once") is registry.counter("test.once")
    with pytest.raises(TypeError, match="it is a counter"):
        registry.gauge("test.once")
    for name in ("", "a b", "1a", "ä", "x\n"):
        with pytest.raises(ValueError, match="cannot be"):
            registry.counter(name)


def test_quantiles_are_right_within_a_bucket() -> None:
    reading = some()["seconds"]
    for share in (0.5, 0.9, 0.99):
        assert share <= reading.quantile(share) <= share * 2**0.25 * 1.001
    assert Histogram().read().quantile(0.5) == 0


def test_odd_values_break_nothing() -> None:
    histogram = Histogram()
    for value in (0, -1, math.inf, math.nan, 1e300, 1e-300):
        histogram.observe(value)
    assert histogram.read().count == 6
    histogram.read().plain()


def test_a_callback_that_fails_gives_no_number() -> None:
    registry.callback("test.bad", lambda: 1 / 0)
    assert registry.read()["test.bad"].plain() is None
    registry.callback("test.good", lambda: 7)
    assert registry.read()["test.good"].plain() == 7


def test_machines_are_added_up() -> None:
    together = merged([some(), some()])
    assert together["requests"].value == 6
    assert together["seconds"].count == 200
    assert together["seconds"].quantile(0.5) == some()["seconds"].quantile(0.5)
    assert pickle.loads(pickle.dumps(together)) == together


def test_prometheus_reads_it() -> None:
    text = openmetrics({"m1": some(), 'm"2': some()})
    families = {family.name: family for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]  # their parser has no types
    counted = families["bigmachine_requests"]
    assert counted.type == "counter"
    assert {sample.labels["machine"]: sample.value for sample in counted.samples} == {"m1": 3, 'm"2': 3}
    assert families["bigmachine_seconds"].type == "histogram"
    assert [s.value for s in families["bigmachine_seconds"].samples if s.name.endswith("_count")] == [100, 100]
    assert families["bigmachine_model"].samples[0].labels["version"] == 'a"b\\c\n'
    assert openmetrics({}) == "# EOF\n"
