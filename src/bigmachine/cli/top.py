"""`bigmachine top`: the machines of a session, live; of one that has ended, how they were and why it ended."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from bigmachine.cli.choosing import chosen, latest
from bigmachine.cli.client import MISSING, OK, open_conversation
from bigmachine.cli.listing import Listed, cost, headline, machine_row
from bigmachine.cli.numbers import seconds, whole
from bigmachine.cli.printing import STATES, cut, natural, plain, say, say_json_line, table
from bigmachine.session.register import Entry, Record

if TYPE_CHECKING:
    from rich.table import Table

_KEYS: Final = {"name": "name", "cpu": "cpu", "mem": "mem", "calls": "rate"}
_HEADS: Final = ("MACHINE", "STATE", "CPU %", "MEMORY MiB", "CALLS/s", "TOOK ms", "FAILED", "PING ms", "LAST LINE")
_NUMBERS: Final = range(2, 8)
#: Lines of a terminal that are no rows.
_FRAME: Final = 5


def add_top(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("-n", "--count", type=whole(1), metavar="N", help="look so many times (until Ctrl-C)")
    parser.add_argument("-d", "--delay", type=seconds, default=1.0, metavar="SECONDS", help="between two looks (1)")
    parser.add_argument("--sort", choices=sorted(_KEYS), default="name", help="what comes first (name)")


def run_top(args: argparse.Namespace) -> int:
    """Watch them."""
    entry = chosen(args.session, dead_too=True)
    if not entry.is_running:
        _show_ended(entry.record, is_json=args.json)
        return MISSING
    looks = _looks(entry, args)
    if args.json:
        for look in looks:
            say_json_line(look)
    elif sys.stdout.isatty():
        _live(entry.record, looks, args.sort)
    else:
        for look in looks:
            for line in [_head(entry.record, look), *table(rows_of(look, args.sort), _HEADS, right=_NUMBERS), ""]:
                say(line)
            sys.stdout.flush()
    record = latest(entry)
    if record.ended is not None:
        _show_ended(record, is_json=args.json)
    return OK


def _looks(entry: Entry, args: argparse.Namespace) -> Iterator[Mapping[str, Any]]:
    with open_conversation(entry, "top", count=args.count or 0, period=args.delay) as conversation:
        yield from conversation.lines()


def _show_ended(record: Record, *, is_json: bool) -> None:
    if is_json:
        assert record.ended is not None
        told = record.told()
        say_json_line({"ended": told["ended"], "machines": told["machines"], "cost": told["cost"]})
        return
    now = time.time()
    is_gone = record.ended is not None and record.ended.why == "gone"
    say(f"{record.id}  {plain(headline(Listed(record, is_running=False, is_heard=False), now))}")
    for line in table([machine_row(machine, is_gone=is_gone) for machine in record.machines], indent="    "):
        say(cut(line))


def _head(record: Record, look: Mapping[str, Any]) -> str:
    machines = look["machines"]
    running = sum(1 for row in machines if row["state"] == "RUNNING")
    told = look.get("cost")
    parts = [
        f"{record.title} on {record.system}, pid {record.pid}",
        f"{running} of {len(machines)} machines running",
        time.strftime("%H:%M:%S", time.localtime(look["now"])),
    ]
    return plain("; ".join([*parts, cost(told)] if told else parts))


def rows_of(look: Mapping[str, Any], sort: str) -> list[list[str]]:
    """Give the rows of the table, sorted; numbers with the largest first."""
    key = _KEYS[sort]
    rows: Sequence[Mapping[str, Any]] = look["machines"]
    if sort == "name":
        rows = sorted(rows, key=lambda row: natural(str(row["name"])))
    else:
        rows = sorted(rows, key=lambda row: -float(row.get(key) or 0))
    return [_row(row) for row in rows]


def _row(row: Mapping[str, Any]) -> list[str]:
    memory = "" if "mem" not in row else f"{row['mem']:.0f}/{row['limit']:.0f}"
    state = str(row["state"])
    said = row.get("error") or row.get("phase") or row.get("line") or ""
    return [
        str(row["name"]),
        state,
        _number(row.get("cpu")),
        memory,
        _number(row.get("rate")),
        _number(row.get("took")),
        _number(row.get("failed")),
        _number(row.get("alive")),
        str(said),
    ]


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else ""


def _live(record: Record, looks: Iterator[Mapping[str, Any]], sort: str) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        for look in looks:
            live.update(_table(record, look, sort, console.height), refresh=True)


def _table(record: Record, look: Mapping[str, Any], sort: str, height: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    rows = rows_of(look, sort)
    room = max(1, height - _FRAME)
    left = len(rows) - room
    shown = Table(
        box=None,
        expand=True,
        pad_edge=False,
        title=Text(_head(record, look)),
        title_justify="left",
        caption=Text(f"{left} more machines; --sort says which come first" if left > 0 else ""),
        caption_justify="left",
    )
    for number, head in enumerate(_HEADS):
        is_last = number == len(_HEADS) - 1
        shown.add_column(
            head,
            justify="right" if number in _NUMBERS else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if is_last else None,
        )
    for row in rows[:room]:
        cells = [Text(plain(cell)) for cell in row]
        cells[1].stylize(STATES.get(row[1], ""))
        shown.add_row(*cells)
    return shown


__all__ = ["add_top", "rows_of", "run_top"]
