"""`bigmachine logs`: what the machines of a session have written last, and write from now on."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from bigmachine.cli.choosing import chosen, latest, why_ended
from bigmachine.cli.client import OK, open_conversation
from bigmachine.cli.numbers import whole
from bigmachine.cli.printing import is_coloured, say_json_line, warn, write
from bigmachine.session.output.paint import Painter, prefix

_STREAMS: Final = ("stdout", "stderr", "log")
#: Who follows wants to see where it is, not all that was.
_LAST: Final = 10


def add_logs(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help="by name (all)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the session ends, or Ctrl-C")
    parser.add_argument(
        "-n",
        "--last",
        type=whole(0),
        metavar="N",
        help="the last N lines of what came before (all that the driver keeps, 512 KiB; with -f 10)",
    )
    parser.add_argument("-t", "--time", action="store_true", help="say when each line came")
    parser.add_argument("--stream", choices=_STREAMS, help="only what was written there")


def run_logs(args: argparse.Namespace) -> int:
    """Show it."""
    entry = chosen(args.session)
    last = args.last if args.last is not None else _LAST if args.follow else -1
    show = say_json_line if args.json else _Printer(is_timed=args.time)
    with open_conversation(
        entry, "logs", machines=args.machines, follow=args.follow, last=last, stream=args.stream
    ) as conversation:
        for line in conversation.lines():
            show(line)
    if args.follow and (record := latest(entry)).ended is not None:
        sys.stdout.flush()
        warn(f"the session {record.title} ({record.id}) {why_ended(record, time.time())}")
    return OK


class _Printer:
    """Prints lines, as the driver would."""

    def __init__(self, *, is_timed: bool) -> None:
        self._is_timed = is_timed
        self._is_terminal = sys.stdout.isatty()
        self._is_coloured = is_coloured(sys.stdout)
        self._painters: dict[tuple[str, str], Painter] = {}

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Print one."""
        if "dropped" in line:
            sys.stdout.flush()
            warn(f"{line['dropped']} lines were lost: they came faster than they could be shown")
            return
        machine, stream = line["machine"], line["stream"]
        painter = self._painters.setdefault((machine, stream), Painter())
        front = prefix(machine, is_coloured=self._is_coloured)
        if self._is_timed:
            at = line["at"]
            front = f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at % 1 * 1000):03} {front}"
        write(painter.paint(front, f"{line['text']}\n", is_terminal=self._is_terminal))
        sys.stdout.flush()


__all__ = ["add_logs", "run_logs"]
