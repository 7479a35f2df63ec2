"""`bigmachine COMMAND ...`: arguments, errors and exit codes.

The codes: 0 done; 1 it failed, or was refused; 2 wrong usage; 3 there is no such session, machine, or other thing;
130 interrupted (Ctrl-C); 141 whoever read the output did not want all of it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from bigmachine.cli.client import FAILED, INTERRUPTED, USAGE, Failure
from bigmachine.cli.commands import COMMANDS, Command
from bigmachine.cli.printing import say, warn
from bigmachine.errors import BigmachineError, InvalidCall

_ABOUT: Final = "Look at, and take part in, the bigmachine sessions of this user on this computer."
_CODES: Final = "exit codes: 0 done; 1 it failed; 2 wrong usage; 3 there is no such session or machine; 130 interrupted"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and give its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None:  # who called closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (it stays open until the process ends)
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        return _pipe_is_gone()
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _run(words: list[str]) -> int:
    parser = parser_for(words)
    args = parser.parse_args(words)
    if args.command is None:
        parser.print_help()
        return USAGE
    module = import_module(f"bigmachine.cli.{COMMANDS[args.command].module}")
    try:
        return int(getattr(module, f"run_{_name(args.command)}")(args))
    except Failure as failure:
        warn(str(failure))
        return failure.code
    except InvalidCall as error:
        warn(str(error))
        return USAGE
    except BrokenPipeError:
        raise
    except (BigmachineError, OSError) as error:
        warn(_reason(error))
        return FAILED


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def parser_for(words: Sequence[str], *, everything: bool = False) -> argparse.ArgumentParser:
    """Make the parser, with the arguments of the command that is called; of all of them, if `everything`."""
    parser = argparse.ArgumentParser(
        prog="bigmachine", description=_ABOUT, epilog=_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say which version this is")
    below = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    called = next((word for word in words if not word.startswith("-")), None)
    for command in COMMANDS.values():
        sub = below.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help[:1].upper()}{command.help[1:]}.",
            epilog=f"example: {command.example}\n\n{_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if everything or command.name == called:
            _fill(sub, command)
    return parser


def _fill(parser: argparse.ArgumentParser, command: Command) -> None:
    module = import_module(f"bigmachine.cli.{command.module}")
    getattr(module, f"add_{_name(command.name)}")(parser)
    if command.of_session:
        parser.add_argument(
            "-s",
            "--session",
            metavar="SESSION",
            help="which one: its id, its driver's process, or its name; unneeded if only one runs",
        )
    if command.json:
        parser.add_argument("--json", action="store_true", help="print JSON")


def _name(command: str) -> str:
    return command.replace("-", "_")


class _Version(argparse.Action):
    """Says the version, which is found out when somebody asks."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib import metadata

        try:
            version = metadata.version("bigmachine")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        say(f"bigmachine {version}, Python {sys.version.split()[0]}")
        parser.exit()


def _pipe_is_gone() -> int:
    """Whoever reads the output has enough of it: end as a program that a signal tells so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python says so, when it flushes at its end
    return 128 + 13


__all__ = ["main", "parser_for"]
