"""`bigmachine status`: how the machines of a session are."""

from __future__ import annotations

import argparse

from bigmachine.cli.choosing import chosen
from bigmachine.cli.client import OK, ask
from bigmachine.cli.printing import plain, say_json, write


def add_status(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help="by name or address (all)")


def run_status(args: argparse.Namespace) -> int:
    """Show it."""
    told = ask(chosen(args.session), "status", machines=args.machines)
    if args.json:
        say_json({"machines": told["machines"]})
    else:
        write("\n".join(plain(line) for line in told["text"].splitlines()) + "\n")
    return OK


__all__ = ["add_status", "run_status"]
