"""Facts as variables: of this process, of its calls, of its host, and what `prometheus_client` has of the program's.

A name may have labels behind it, as OpenMetrics writes them: `rpc.calls{method="CirclePi.sample"}`. A name that begins
with `prometheus:` is somebody else's and is passed on as it is.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final, Protocol

from bigmachine.observe.host import load_info, mem_info
from bigmachine.observe.limits import cpu_quota
from bigmachine.observe.vars import BOUNDS, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Names that are passed on as they are.
FOREIGN: Final = "prometheus:"


class MethodCounts(Protocol):
    """What is counted of a method's calls, as `rpc.MethodSnapshot` has it."""

    @property
    def calls(self) -> int: ...

    @property
    def errors(self) -> int: ...

    @property
    def total(self) -> float: ...

    @property
    def longest(self) -> float: ...

    @property
    def bytes_in(self) -> int: ...

    @property
    def bytes_out(self) -> int: ...

    @property
    def histogram(self) -> Sequence[int]: ...


def labelled(name: str, **labels: str) -> str:
    """Put labels behind a name."""
    escaped = (f'{key}="{_escaped(value)}"' for key, value in sorted(labels.items()))
    return f"{name}{{{','.join(escaped)}}}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def of_process(born: float) -> dict[str, Reading]:
    """Tell about this process, which was `born` then (seconds since the epoch)."""
    import psutil

    process = psutil.Process()
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_info()
    return {
        "process.rss_bytes": Reading("gauge", memory.rss, help="memory that the process holds"),
        "process.cpu_seconds": Reading("counter", times.user + times.system, help="processor time that it has used"),
        "process.threads": Reading("gauge", threading.active_count(), help="its threads"),
        "process.open_files": Reading("gauge", process.num_fds(), help="its open descriptors"),
        "process.uptime_seconds": Reading("gauge", time.time() - born, help="since it began to serve"),
        "process.modules": Reading("gauge", len(sys.modules), help="modules that it has imported"),
        **{
            labelled("process.gc_collections", generation=str(number)): Reading("counter", each["collections"])
            for number, each in enumerate(gc.get_stats())
        },
    }


def of_calls(methods: Mapping[str, MethodCounts], side: str = "rpc") -> dict[str, Reading]:
    """Tell what calls have cost, by method [Go: rpc/stats.go]."""
    told = {}
    for method, counts in methods.items():
        name = f'{{method="{_escaped(method)}"}}'
        told[f"{side}.calls{name}"] = Reading("counter", counts.calls, help="calls that are over")
        told[f"{side}.errors{name}"] = Reading("counter", counts.errors, help="those that failed")
        told[f"{side}.seconds{name}"] = _histogram(counts)
        told[f"{side}.bytes_in{name}"] = Reading("counter", counts.bytes_in, help="without those of streams")
        told[f"{side}.bytes_out{name}"] = Reading("counter", counts.bytes_out, help="without those of streams")
    return told


def _histogram(counts: MethodCounts) -> Reading:
    buckets: dict[int, int] = {}
    for power, count in enumerate(counts.histogram):
        if count:  # so many took less than 2**power microseconds
            at = bisect_left(BOUNDS, 2.0**power / 1e6)
            buckets[at] = buckets.get(at, 0) + count
    return Reading("histogram", counts.total, counts.calls, tuple(sorted(buckets.items())), help="seconds a call")


def of_host(pid: int | None = None) -> dict[str, Reading]:
    """Tell about the host, as a machine on it may use it: its container's limits, where there are any, count."""
    memory, load = mem_info(pid), load_info()
    quota = cpu_quota(f"/proc/{pid or 'self'}")
    limit = min(memory.total, memory.limit or memory.total)
    used = memory.used if memory.limit_used is None or limit == memory.total else memory.limit_used
    gauges = {
        "host.memory_total_bytes": (memory.total, "memory of the host"),
        "host.memory_available_bytes": (memory.available, "of it, what can still be had"),
        "host.memory_limit_bytes": (limit, "what may be used: the container's limit, or the host's memory"),
        "host.memory_limit_used_bytes": (used, "of that, what is in use"),
        "host.load1": (load.load1, "load average over one minute"),
        "host.cpus": (load.cpus, "processors that can be kept busy"),
        "host.cpu_quota": (math.nan if quota is None else quota, "processors that the container grants"),
    }
    told = {name: Reading("gauge", value, help=text) for name, (value, text) in gauges.items()}
    if memory.rss is not None:
        told["process.rss_bytes"] = Reading("gauge", memory.rss, help="memory that the process holds")
    return told


def of_prometheus() -> dict[str, Reading]:
    """Tell what the program counts by `prometheus_client`, if it does: that is not imported for it."""
    client = sys.modules.get("prometheus_client")
    registry = getattr(client, "REGISTRY", None)
    if registry is None:
        return {}
    told: dict[str, Reading] = {}
    try:
        for family in registry.collect():
            told.update(_family(family))
    except Exception:  # noqa: BLE001 (collectors are the program's; looking at them must not end anything)
        return told
    return told


def _family(family: Any) -> dict[str, Reading]:
    """Translate a family of samples; a summary becomes its count and sum."""
    if family.type in ("histogram", "gaugehistogram"):
        return _prometheus_histograms(family)
    told = {}
    for sample in family.samples:
        if sample.name.endswith("_created"):
            continue
        kind = "counter" if family.type == "counter" or sample.name.endswith(("_count", "_sum")) else "gauge"
        key = FOREIGN + (labelled(sample.name, **sample.labels) if sample.labels else sample.name)
        told[key] = Reading(kind, float(sample.value), help=family.documentation)
    return told


def _prometheus_histograms(family: Any) -> dict[str, Reading]:
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    buckets: dict[str, list[tuple[float, float]]] = {}
    for sample in family.samples:
        labels = {key: value for key, value in sample.labels.items() if key != "le"}
        key = FOREIGN + (labelled(family.name, **labels) if labels else family.name)
        if sample.name.endswith("_bucket"):
            buckets.setdefault(key, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_sum"):
            sums[key] = float(sample.value)
        elif sample.name.endswith("_count"):
            counts[key] = int(sample.value)
    told = {}
    for key, cumulative in buckets.items():
        own: dict[int, int] = {}
        before = 0.0
        for bound, value in sorted(cumulative):
            at = bisect_left(BOUNDS, bound) if bound > 0 else 0
            if value > before:
                own[at] = own.get(at, 0) + int(value - before)
            before = value
        number = counts.get(key, int(before))
        told[key] = Reading(
            "histogram", sums.get(key, math.nan), number, tuple(sorted(own.items())), help=family.documentation
        )
    return told


__all__ = ["FOREIGN", "MethodCounts", "labelled", "of_calls", "of_host", "of_process", "of_prometheus"]
