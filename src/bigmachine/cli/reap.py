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

    found = reaping.reap(args.region or reaping.regions(), args.of or (), dry_run=not args.yes)
    if args.json:
        say_json({"taken": args.yes, "leftovers": _told(found)})
        return OK
    _show(found)
    if not found:
        say("nothing was left behind")
    elif not args.yes:
        say(f"nothing was done; with --yes, {'this' if len(found) == 1 else 'these'} would be taken away")
    return OK


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
