"""Variables as OpenMetrics text, which Prometheus and its like read.

A name may have labels of its own behind it, as `rpc.calls{method="Sum.add"}`; one that begins with `prometheus:` is
passed on without our prefix.

Source: https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md (version 1.0).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from bigmachine.observe.vars import BOUNDS, Reading

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_FOREIGN = "prometheus:"
_TYPES = {"counter": "counter", "gauge": "gauge", "histogram": "histogram", "info": "info"}


def openmetrics(machines: Mapping[str, Mapping[str, Reading]], prefix: str = "bigmachine_") -> str:
    """Write what each machine has, with a label `machine`."""
    families: dict[str, list[tuple[str, Reading]]] = {}
    for machine, readings in machines.items():
        for key, reading in readings.items():
            name, _, own = key.partition("{")
            is_foreign = name.startswith(_FOREIGN)
            name = _plain(name.removeprefix(_FOREIGN)) if is_foreign else prefix + _plain(name)
            if reading.kind == "counter":
                name = name.removesuffix("_total")
            labels = f'machine="{_escaped(machine)}"' + (f",{own.removesuffix('}')}" if own else "")
            families.setdefault(name, []).append((labels, reading))
    lines = [line for name in sorted(families) for line in _family(name, families[name])]
    return "\n".join([*lines, "# EOF", ""])


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def _family(name: str, readings: list[tuple[str, Reading]]) -> Iterator[str]:
    first = readings[0][1]
    yield f"# TYPE {name} {_TYPES[first.kind]}"
    if first.help:
        yield f"# HELP {name} {_escaped(first.help)}"
    for labels, reading in readings:
        if reading.kind == first.kind:  # a name means one thing; another machine's other meaning is left out
            yield from _samples(name, labels, reading)


def _samples(name: str, label: str, reading: Reading) -> Iterator[str]:
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
