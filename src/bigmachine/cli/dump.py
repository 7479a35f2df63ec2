"""`bigmachine dump`: all that is known of a session at this moment, in one zip file."""

from __future__ import annotations

import argparse
import os
import time

from bigmachine.cli.choosing import chosen
from bigmachine.cli.client import OK, Failure, ask
from bigmachine.cli.printing import plain, say, say_json


def add_dump(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("path", nargs="?", metavar="FILE", help="where (bigmachine-SESSION-TIME.zip)")


def run_dump(args: argparse.Namespace) -> int:
    """Write it; the driver does."""
    entry = chosen(args.session)
    name = args.path or f"bigmachine-{entry.record.id}-{time.strftime('%Y%m%dT%H%M%S')}.zip"
    place = os.path.abspath(name)
    if not os.path.isdir(os.path.dirname(place)):  # before machines are asked for everything
        raise Failure(f"{place} could not be written: there is no such folder")
    path = ask(entry, "dump", timeout=120.0, path=place)["path"]
    if args.json:
        say_json({"file": path, "bytes": os.path.getsize(path)})
    else:
        say(plain(path))
    return OK


__all__ = ["add_dump", "run_dump"]
