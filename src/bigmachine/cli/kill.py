"""`bigmachine kill`: end machines of a session, by its driver, so that it knows."""

from __future__ import annotations

import argparse

from bigmachine.cli.choosing import chosen
from bigmachine.cli.client import FAILED, OK, USAGE, Failure, ask
from bigmachine.cli.printing import plain, say, say_json, warn


def add_kill(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help="by name or address")
    parser.add_argument("--all", action="store_true", help="all machines that the session owns")


def run_kill(args: argparse.Namespace) -> int:
    """End them."""
    if bool(args.machines) == args.all:
        raise Failure("say either which machines are to end, or --all", USAGE)
    told = ask(chosen(args.session), "kill", timeout=60.0, machines=args.machines, all=args.all)["machines"]
    if args.json:
        say_json({"machines": told})
    for each in told:
        if each["state"] != "STOPPED":
            warn(f"{each['name']} has not ended: {each.get('error') or each['state']}")
        elif not args.json:
            say(f"{plain(each['name'])} has ended")
    if not told and not args.json:
        say("the session has no machine")
    return OK if all(each["state"] == "STOPPED" for each in told) else FAILED


__all__ = ["add_kill", "run_kill"]
