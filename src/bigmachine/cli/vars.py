"""`bigmachine vars`: the numbers of the machines of a session."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from bigmachine.cli.choosing import chosen
from bigmachine.cli.client import MISSING, OK, Failure, ask
from bigmachine.cli.printing import natural, say, say_json, table


def add_vars(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("patterns", nargs="*", metavar="NAME", help="which ones, with * and ? (all)")
    parser.add_argument("-m", "--machine", action="append", metavar="MACHINE", help="only this one; may be repeated")
    parser.add_argument("--driver", action="store_true", help="the driver's own process, too")


def run_vars(args: argparse.Namespace) -> int:
    """Show them."""
    told = ask(chosen(args.session), "vars", machines=args.machine or [], driver=args.driver)["vars"]
    wanted = {machine: _matching(readings, args.patterns) for machine, readings in told.items()}
    if args.patterns and not any(wanted.values()):
        raise Failure(f"no number is called {' or '.join(args.patterns)}: `bigmachine vars` lists all", MISSING)
    if args.json:
        say_json(wanted)
        return OK
    names = sorted({name for readings in wanted.values() for name in readings})
    machines = [
        *sorted((each for each in wanted if each != "_sum"), key=natural),
        *(["_sum"] if len(wanted) > 2 else []),
    ]
    rows = [
        [name, machine, _short(wanted[machine][name])]
        for name in names
        for machine in machines
        if name in wanted[machine]
    ]
    for line in table(rows, ("NAME", "MACHINE", "VALUE")):
        say(line)
    return OK


def _matching(readings: Mapping[str, Any], patterns: Sequence[str]) -> dict[str, Any]:
    return {
        name: value
        for name, value in readings.items()
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e15 else f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


__all__ = ["add_vars", "run_vars"]
