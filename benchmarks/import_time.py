"""`import bigmachine`, and what starting a session imports besides; in a fresh process each time."""

from __future__ import annotations

import subprocess
import sys

import measure
from measure import Goal, Options, Row

_TIMED = """
import sys, time
before = set(sys.modules)
begin = time.perf_counter()
{what}
took = time.perf_counter() - begin
print(took, len(set(sys.modules) - before))
"""
#: All that a driver of local machines needs until the first result; nothing is started.
_SESSION = """
import bigmachine, bigmachine.systems.local, cryptography.x509
for name in bigmachine.__all__:
    getattr(bigmachine, name)
from bigmachine.trust import Authority
Authority("00000000")
from bigmachine.rpc.reactor import new_event_loop
new_event_loop().close()
"""
_FLOOR = "import asyncio, ssl"


def figures(options: Options) -> list[Row]:
    modules: dict[str, int] = {}

    def imported(name: str, what: str) -> list[float]:
        source = _TIMED.format(what=what)
        done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
        took, count = done.stdout.split()
        modules[name] = int(count)
        return [float(took)]

    stats = measure.take_turns(
        options.pick(8, 25),
        floor=lambda: imported("floor", _FLOOR),
        package=lambda: imported("package", "import bigmachine"),
        session=lambda: imported("session", _SESSION),
    )
    return [
        Row(
            "import bigmachine",
            "s",
            stats["package"],
            _FLOOR,
            stats["floor"],
            (Goal("median", 0.06),),
            note=f"{modules['package']} modules",
        ),
        Row(
            "all that a session needs, an authority made",
            "s",
            stats["session"],
            _FLOOR,
            stats["floor"],
            note=f"{modules['session']} modules; the dearest by themselves: {dearest()}",
        ),
    ]


def dearest() -> str:
    """Name the modules that took longest, without what they import in turn."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", _SESSION], check=True, capture_output=True, text=True
    )
    entries = []
    for line in done.stderr.splitlines():
        _, _, rest = line.partition("import time:")
        own, _, name = rest.split("|")
        if own.strip().isdecimal():
            entries.append((int(own), name.strip()))
    return ", ".join(f"{name} {own / 1000:.1f} ms" for own, name in sorted(entries, reverse=True)[:6])


if __name__ == "__main__":
    measure.run(figures)
