"""Variables as OpenMetrics text, which Prometheus and its like read.

Source: https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md (version 1.0).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from bigmachine.observe.vars import BOUNDS, Reading

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_TYPES = {"counter": "counter", "gauge": "gauge", "histogram": "histogram", "info": "info"}


def openmetrics(machines: Mapping[str, Mapping[str, Reading]], prefix: str = "bigmachine_") -> str:
    """Write what each machine has, with a label `machine`."""
    names: dict[str, dict[str, Reading]] = {}
    for machine, readings in machines.items():
        for name, reading in readings.items():
            names.setdefault(name, {})[machine] = reading
    lines = [line for name in sorted(names) for line in _family(prefix + _plain(name), names[name])]
    return "\n".join([*lines, "# EOF", ""])


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def _family(name: str, readings: Mapping[str, Reading]) -> Iterator[str]:
    first = next(iter(readings.values()))
    if first.kind == "counter":
        name = name.removesuffix("_total")
    yield f"# TYPE {name} {_TYPES[first.kind]}"
    if first.help:
        yield f"# HELP {name} {_escaped(first.help)}"
    for machine, reading in readings.items():
        if reading.kind == first.kind:  # a name means one thing; another machine's other meaning is left out
            yield from _samples(name, machine, reading)


def _samples(name: str, machine: str, reading: Reading) -> Iterator[str]:
    label = f'machine="{_escaped(machine)}"'
    if reading.kind == "histogram":
        seen = 0
        for at, count in reading.buckets:
            seen += count
            if at < len(BOUNDS):
                yield f'{name}_bucket{{{label},le="{BOUNDS[at]!r}"}} {seen}'
        yield f'{name}_bucket{{{label},le="+Inf"}} {reading.count}'
        yield f"{name}_sum{{{label}}} {_number(reading.value)}"
        yield f"{name}_count{{{label}}} {reading.count}"
    elif reading.kind == "info":
        facts = "".join(f',{_plain(key)}="{_escaped(value)}"' for key, value in reading.facts)
        yield f"{name}_info{{{label}{facts}}} 1"
    else:
        ending = "_total" if reading.kind == "counter" else ""
        yield f"{name}{ending}{{{label}}} {_number(reading.value)}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


__all__ = ["CONTENT_TYPE", "openmetrics"]
