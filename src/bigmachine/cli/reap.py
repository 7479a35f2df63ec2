"""`bigmachine reap` and `bigmachine ls --ec2`: what is ours in an EC2 account, and what has been left behind there."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from bigmachine.cli.client import OK
from bigmachine.cli.listing import add_ec2
from bigmachine.cli.printing import ago, say, say_json, table

if TYPE_CHECKING:
    from bigmachine.systems.ec2.reaping import Leftover

_HEADS = ("REGION", "KIND", "ID", "STATE", "TYPE", "MARKET", "SINCE", "OVERDUE", "SESSION", "OF")


def add_reap(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    add_ec2(parser)
    parser.add_argument(
        "--of",
        action="append",
        metavar="SESSION",
        help="all of this session, which is to be over; may be repeated (what has outlived its maximum life)",
    )
    parser.add_argument("--yes", action="store_true", help="do it; else it is only said what would go")


def run_reap(args: argparse.Namespace) -> int:
    """Take it away, or say what would be."""
    from bigmachine.systems.ec2 import reaping

    there = reaping.leftovers(args.region or reaping.regions())
    found = reaping.forgotten(there, time.time(), args.of or ())
    if not args.json:
        _show(found)
    if args.yes:
        reaping.take_away(found)
    if args.json:
        say_json({"taken": args.yes, "leftovers": _told(found)})
    else:
        say(_verdict(len(found), len(there) - len(found), args))
    return OK


def _verdict(found: int, others: int, args: argparse.Namespace) -> str:
    them = "this" if found == 1 else "these"
    if found:
        return (
            f"{them} {'was' if found == 1 else 'were'} taken away"
            if args.yes
            else (f"nothing was done; with --yes, {them} would be taken away")
        )
    if args.of:
        return f"there is nothing of {' or '.join(args.of)}; `bigmachine ls --ec2` shows what there is"
    if others:
        return (
            f"nothing has outlived its maximum life; {others} more {'is' if others == 1 else 'are'} there: `bigmachine "
            "ls --ec2` shows them, and --of SESSION takes away those of a session that is over"
        )
    return "nothing was left behind"


def run_list(args: argparse.Namespace) -> int:
    """List all that is ours."""
    from bigmachine.systems.ec2 import reaping

    found = reaping.leftovers(args.region or reaping.regions())
    if args.json:
        say_json({"leftovers": _told(found)})
    elif found:
        _show(found)
    else:
        say("nothing of ours is there")
    return OK


def _told(found: Iterable[Leftover]) -> list[dict[str, object]]:
    now = time.time()
    return [{**asdict(each), "overdue": each.is_overdue(now)} for each in found]


def _show(found: Sequence[Leftover]) -> None:
    now = time.time()
    rows = [
        [
            each.region,
            each.kind,
            each.id,
            each.state,
            each.type,
            each.market,
            "" if each.began is None else f"{ago(now - each.began)} ago",
            "yes" if each.is_overdue(now) else "no",
            each.session,
            f"{each.user}@{each.driver} {each.program}",
        ]
        for each in found
    ]
    if rows:
        for line in table(rows, _HEADS):
            say(line)


__all__ = ["add_reap", "run_list", "run_reap"]
