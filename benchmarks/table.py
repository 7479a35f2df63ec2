"""Every figure in one table, with the floors and the peers of the same run: `python benchmarks/table.py [--quick]`.

Each benchmark runs in a process of its own, one after another. The two figures that depend most on the transport are
measured a second time without `aiofastnet` (what those have who did not install the extra `[fast]`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import go_original
import measure
import peers
from measure import Options, Row, Stat

_HERE = Path(__file__).parent
_TIMEOUT = 300
FIGURES = (
    ("import_time.py",),
    ("start.py",),
    ("many.py",),
    ("memory.py",),
    ("scan.py",),
    ("shipping.py",),
    ("ssh.py",),
    ("cold.py",),
    ("inprocess.py",),
    ("ending.py",),
    ("round_trip.py",),
    ("round_trip.py", "--without=aiofastnet", "--no-peers"),
    ("in_flight.py",),
    ("in_flight.py", "--without=aiofastnet", "--no-peers"),
    ("errors.py",),
    ("generator.py",),
    ("bulk.py",),
    ("fairness.py",),
    ("output.py",),
    ("seeing.py",),
    ("crowd.py",),
)


def original(options: Options) -> dict[str, Stat] | str:
    """Measure the Go original, or say why not."""
    if not options.peers:
        return "left out"
    try:
        return go_original.measured(options)
    except (go_original.NotHere, subprocess.SubprocessError, RuntimeError) as exc:
        return str(exc)


def run(command: tuple[str, ...], arguments: list[str]) -> dict[str, Any] | str:
    """Run one benchmark; return what it printed, or what went wrong."""
    script, *own = command
    try:
        done = subprocess.run(
            [sys.executable, str(_HERE / script), "--json", *own, *arguments],
            check=False,  # why it failed is told below
            timeout=_TIMEOUT,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {_TIMEOUT} s"
    if done.returncode:
        return done.stderr.strip() or f"it ended with status {done.returncode}"
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def beside(row: Row, go: dict[str, Stat] | str) -> Row:
    """Put the Go original beside a row that it has a figure for, or that is to beat it."""
    is_asked = any(goal.of == peers.GO for goal in row.goals)
    if isinstance(go, str):
        if is_asked:
            row.peers[peers.GO] = go
    elif row.name in go:
        row.peers[peers.GO] = go[row.name]
    return row


def main() -> None:
    options, given = measure.parse()
    begin = time.monotonic()
    go = original(options)
    arguments = [flag for flag, is_on in (("--quick", options.quick), ("--no-peers", not options.peers)) if is_on]
    has_fast = "aiofastnet" in measure.engine()
    tables: list[dict[str, Any]] = []
    missed: list[str] = []
    failed: list[str] = []
    for command in FIGURES:
        if not has_fast and len(command) > 1:
            continue  # it would be the same again
        made = run(command, arguments)
        if isinstance(made, str):
            failed.append(f"{command[0]}: it failed, see above")
            made = {"title": " ".join(command), "conditions": f"FAILED: {made}", "rows": []}
        rows = [beside(Row.from_dict(row), go) for row in made["rows"]]
        tables.append({**made, "rows": [row.to_dict() for row in rows]})
        for row in rows:
            missed += [f"{command[0]}: {row.name} {text}" for text, good in row.verdicts() if good is False]
        if not given.json:
            print(measure.table(made["title"], made["conditions"], rows), end="\n\n", flush=True)
    if given.json:
        print(json.dumps(tables))
        return
    judged = sum(good is not None for made in tables for row in made["rows"] for _, good in row["verdicts"])
    print(f"{judged - len(missed)} of {judged} goals reached, in {time.monotonic() - begin:.0f} s")
    for line in failed + missed:
        print(f"  missed: {line}")


if __name__ == "__main__":
    main()
