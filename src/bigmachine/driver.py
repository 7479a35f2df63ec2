"""The flags of a program that starts machines [Go: the package driver].

    parser = argparse.ArgumentParser()
    bigmachine.driver.add_flags(parser)
    with bigmachine.driver.start(parser.parse_args()) as session: ...

A program with a command line of another make calls `start()` without arguments: the flags are then picked out of
`sys.argv`, which stays as it is.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigmachine import config
from bigmachine.errors import InvalidCall

if TYPE_CHECKING:
    import argparse

    from bigmachine.session import Session
    from bigmachine.session.events import EventTarget
    from bigmachine.session.output import OutputTarget
    from bigmachine.system import System

_STEM = "--bigm."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--bigm.system` and its like to a program's parser, in a group of their own.

    Their values are attributes named `bigm_system` and so on, None where a flag is not given: what counts then is
    said elsewhere (see `bigmachine.config`).
    """
    import argparse

    # None comes from the parser, not from the flag: a formatter that shows defaults would show it.
    parser.set_defaults(**{option.dest: None for option in config.OPTIONS})
    group = parser.add_argument_group("bigmachine", "where the machines of this program come from")
    for option in config.OPTIONS:
        default = f" (default: {option.default})" if isinstance(option.default, str | int) and option.default else ""
        # A switch may stand alone or with =false, as Go's flags do.
        switch: dict[str, Any] = {"nargs": "?", "const": True} if option.kind is config.Kind.SWITCH else {}
        group.add_argument(
            option.flag,
            dest=option.dest,
            default=argparse.SUPPRESS,
            type=_reader(option),
            metavar="BOOL" if switch else option.name.upper(),
            help=option.help + default,
            **switch,
        )


def start(
    args: argparse.Namespace | None = None,
    *,
    name: str = "",
    output: OutputTarget | None = None,
    events: EventTarget | None = None,
) -> Session:
    """Start a session on the system that the flags, the environment and the configuration file choose.

    `args` is what a parser with `add_flags` returned; None reads the flags from `sys.argv`. In a machine's process
    this call serves and never returns. `output` and `events` are those of `bigmachine.start`, and go before the flags.

    Raises:
        ConfigError: a setting is wrong, or a file with settings is.
        InvalidCall: `args` is something else.
        ProvisionError: the system cannot work here; the text says what is missing.
    """
    import bigmachine

    # A machine gets all it needs from its agent: its host's environment and files are not the driver's.
    # Not to be told by the environment, which a program inherits that is started on a machine.
    if not bigmachine.is_driver():
        return bigmachine.start(name=name)
    if args is not None and not hasattr(args, "__dict__"):
        raise InvalidCall(
            f"driver.start({args!r}): it takes what a parser's parse_args() returned; "
            "bigmachine.start(...) takes a system or the name of one"
        )
    flags = _flags_of(args) if args is not None else _flags_in(sys.argv)
    from bigmachine.session import open_session

    settings = config.load(flags=flags)
    return open_session(_system(settings), name, settings, output, events, is_ours=True)


def _system(settings: config.Settings) -> System:
    from bigmachine import system

    try:
        return system.create(settings.system, settings.options)
    except Exception as error:
        error.add_note(f"(the system {settings.system!r} was chosen by {settings.chosen_by})")
        raise


def _flags_of(args: argparse.Namespace) -> Mapping[str, object]:
    return {option.key: getattr(args, option.dest, None) for option in config.OPTIONS}


def _flags_in(argv: Sequence[str]) -> Mapping[str, object]:
    """Pick the flags out of a command line whose other words mean something to somebody else."""
    words = [_closed(word) for word in argv[1:]]
    ours = itertools.takewhile(lambda word: word != "--", words)
    if not any(word.startswith(_STEM) for word in ours):
        return {}  # the usual case; argparse need not even be imported
    import argparse
    import difflib

    parser = argparse.ArgumentParser(prog=os.path.basename(argv[0]), add_help=False, allow_abbrev=False)
    add_flags(parser)
    args, rest = parser.parse_known_args(words)
    for word in itertools.takewhile(lambda word: word != "--", rest):
        if word.startswith(_STEM):
            near = difflib.get_close_matches(word.partition("=")[0], [option.flag for option in config.OPTIONS], n=1)
            parser.error(f"there is no flag {word}" + (f": did you mean {near[0]}?" if near else ""))
    return _flags_of(args)


def _closed(word: str) -> str:
    """Close a lone switch, or it would take the next word for its value, which is somebody else's."""
    alone = any(word == option.flag for option in config.OPTIONS if option.kind is config.Kind.SWITCH)
    return f"{word}=true" if alone else word


def _reader(option: config.Option) -> Callable[[str], object]:
    def read(text: str) -> object:
        try:
            return config.from_text(option.kind, text)
        except ValueError as error:
            import argparse

            is_switch = option.kind is config.Kind.SWITCH
            remedy = f"; before another word, write {option.flag}=true" if is_switch else ""
            raise argparse.ArgumentTypeError(f"{error}{remedy}") from None

    return read
