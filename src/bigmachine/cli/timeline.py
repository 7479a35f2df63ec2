"""`bigmachine timeline`: how the machines of a session came up, phase by phase."""

from __future__ import annotations

import argparse

from bigmachine.cli.choosing import chosen
from bigmachine.cli.client import OK, ask
from bigmachine.cli.printing import plain, say, say_json
from bigmachine.session.timeline import Span, as_text


def add_timeline(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help="by name (all)")


def run_timeline(args: argparse.Namespace) -> int:
    """Show it."""
    spans = ask(chosen(args.session), "timeline", machines=args.machines)["spans"]
    if args.json:
        say_json({"spans": spans})
        return OK
    told = [Span(each["machine"], each["phase"], each["began"], each["ended"], each["sent"]) for each in spans]
    for line in as_text(told).split("\n"):
        say(plain(line))
    return OK


__all__ = ["add_timeline", "run_timeline"]
