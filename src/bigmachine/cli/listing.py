"""`bigmachine ls`: the sessions of this user, running and ended, with their machines; and what is left on EC2."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from bigmachine.cli.choosing import user, why_ended
from bigmachine.cli.client import OK, Failure, ask
from bigmachine.cli.printing import STATES, ago, clock, cut, natural, painted, plain, say, say_json, table
from bigmachine.frozen import frozen
from bigmachine.session.register import Entry, Record, read_told, sessions

#: For a driver that is busy or stopped; then its record is shown as it wrote it last.
_PATIENCE: Final = 2.0
_ENDED: Final = 5
_MACHINES: Final = 20
#: Causes of a stop that somebody wanted.
_WANTED: Final = ("shutdown", "cancelled")


@frozen
class Listed:
    """A session, as it is now or was last; `is_heard`: its driver has answered."""

    record: Record
    is_running: bool
    is_heard: bool

    def told(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {**self.record.told(), "running": self.is_running, "answers": self.is_heard}


def add_ls(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("-a", "--all", action="store_true", help="all that have ended, and all machines")
    parser.add_argument("-r", "--running", action="store_true", help="only those that run")
    add_ec2(parser)
    parser.add_argument("--ec2", action="store_true", help="what is ours in the regions of the EC2 account, instead")


def add_ec2(parser: argparse.ArgumentParser) -> None:
    """Add the choice of regions."""
    parser.add_argument(
        "--region", action="append", metavar="REGION", help="of EC2; may be repeated (all of the account)"
    )


def run_ls(args: argparse.Namespace) -> int:
    """List them."""
    if args.ec2:
        from bigmachine.cli.reap import run_list

        return run_list(args)
    if args.region:
        raise Failure("--region goes with --ec2", 2)
    found = [each for each in listed(sessions()) if each.is_running or not args.running]
    if args.json:
        say_json({"sessions": [each.told() for each in found]})
        return OK
    running = [each for each in found if each.is_running]
    ended = [each for each in found if not each.is_running]
    shown = ended if args.all else ended[-_ENDED:]
    now = time.time()
    if not running:
        say(f"no session of {user()} runs on this computer")
    for each in [*shown, *running]:
        _show(each, now, None if args.all else _MACHINES)
    if len(shown) < len(ended):
        say(f"{len(ended) - len(shown)} more have ended: --all shows them")
    return OK


def listed(entries: Sequence[Entry]) -> list[Listed]:
    """Ask those that run how they are, all at once; the last to end, or to begin, comes last."""
    running = [entry for entry in entries if entry.is_running]
    told: dict[str, Listed] = {}
    if running:
        with ThreadPoolExecutor(min(16, len(running)), thread_name_prefix="bigmachine-ask") as pool:
            told = {each.record.id: each for each in pool.map(_asked, running)}
    found = [told.get(entry.record.id) or Listed(entry.record, False, False) for entry in entries]
    return sorted(found, key=_order)


def _order(each: Listed) -> tuple[bool, float]:
    ended = each.record.ended
    return each.is_running, each.record.started if ended is None else ended.at


def _asked(entry: Entry) -> Listed:
    try:
        return Listed(
            read_told(ask(entry, "brief", timeout=_PATIENCE, connecting=_PATIENCE)["session"]),
            is_running=True,
            is_heard=True,
        )
    except (Failure, ValueError):
        # It may have ended at this very moment.
        latest = next((each for each in sessions() if each.record.id == entry.record.id), entry)
        return Listed(latest.record, is_running=latest.is_running, is_heard=False)


def _show(each: Listed, now: float, most: int | None) -> None:
    record = each.record
    say(f"{painted(record.id, 'bold')}  {plain(headline(each, now))}")
    machines = record.machines
    is_gone = record.ended is not None and record.ended.why == "gone"
    if record.ended is not None and not is_gone:
        machines = [machine for machine in machines if machine.get("cause") not in _WANTED]
    machines = sorted(machines, key=lambda machine: natural(str(machine["name"])))
    rows = [machine_row(machine, is_gone=is_gone) for machine in machines]
    for line, machine in zip(table(rows[:most], indent="    "), machines, strict=False):
        state = str(machine["state"])
        say(cut(line).replace(state, painted(state, STATES.get(state, "")), 1))
    if most is not None and len(rows) > most:
        say(f"    {len(rows) - most} more machines: --all shows them")


def headline(each: Listed, now: float) -> str:
    """Say what a session is, in a line."""
    record = each.record
    parts = [f"{record.title} on {record.system or 'nothing'}, pid {record.pid}, since {clock(record.started)}"]
    if record.ended is not None:
        parts.append(why_ended(record, now))
    else:
        parts.append(f"running for {ago(now - record.started)}, {counted(record.machines)}")
        if not each.is_heard:
            parts.append(f"its driver does not answer: this is {ago(now - record.updated)} old")
    if record.cost is not None:
        parts.append(cost(record.cost, is_over=record.ended is not None))
    return "; ".join(parts)


def cost(told: Mapping[str, float], *, is_over: bool = False) -> str:
    """Say what machines cost; a price that is not known must not look like none."""
    hourly = "" if is_over else f"${told['per_hour']:.2f} an hour, "
    rest = f" and what {unpriced:.0f} without a known price cost" if (unpriced := told.get("unpriced", 0)) else ""
    return f"{hourly}${told['total']:.2f}{'' if is_over else ' so far'}{rest}"


def counted(machines: Iterable[Mapping[str, Any]]) -> str:
    """Count machines by their states."""
    counts: dict[str, int] = {}
    for machine in machines:
        state = str(machine["state"]).lower()
        counts[state] = counts.get(state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no machines"


def machine_row(machine: Mapping[str, Any], *, is_gone: bool) -> list[str]:
    """Give the row of a table: name, state, address, host, and what is to be known.

    `is_gone`: its driver is, and this is how the machine was then; it ends when it notices.
    """
    state = str(machine["state"])
    remark = str(machine.get("phase") or machine.get("text") or "")
    return [
        str(machine["name"]),
        f"was {state}" if is_gone and state != "STOPPED" else state,
        str(machine["address"]),
        str(machine.get("host") or ""),
        "" if machine.get("cause") in _WANTED else remark.removeprefix(f"machine {machine['name']} "),
    ]


__all__ = ["Listed", "add_ec2", "add_ls", "cost", "counted", "headline", "listed", "machine_row", "run_ls"]
