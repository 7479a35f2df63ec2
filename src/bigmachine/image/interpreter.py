"""Which command starts an interpreter equal to this one.

The flags are read from where the interpreter keeps them (`sys.flags`, `sys.warnoptions`, `sys._xoptions`), as
`subprocess._args_from_interpreter_flags` does for `multiprocessing`. That function passes on only six of the `-X`
options, neither `-u`, `-R` nor `--check-hash-based-pycs`, and raises where a program has emptied `sys.warnoptions`;
hence this one. What `-u` and `-R` did is kept nowhere but on the command line itself (`sys.orig_argv`).

Not passed on: `-i` (a machine has no prompt), `-x`, and what was to be run (`-c`, `-m`, a file). Settings that came by
environment variables come along with the environment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

#: Options that take a value, attached or as the next argument. The last two end the interpreter's own options.
_WITH_VALUE = "WXcm"

#: sys.flags attribute -> letter, which is repeated as often as the flag's value says.
_COUNTED = {
    "optimize": "O",
    "debug": "d",
    "dont_write_bytecode": "B",
    "no_site": "S",
    "verbose": "v",
    "bytes_warning": "b",
    "quiet": "q",
}


class CommandLine(NamedTuple):
    """What an interpreter's command line says: its options' letters, and what it is to run.

    `target` is "-c", "-m", "-" (standard input or a prompt), or the path of a file; None if there is no command line.
    `rest` is what stands behind it: the code of "-c" or the name of "-m" first, then the program's arguments.
    """

    letters: frozenset[str]
    target: str | None
    rest: tuple[str, ...] = ()


def parse_command_line(argv: Sequence[str]) -> CommandLine:
    """Parse `sys.orig_argv` by the rules of the interpreter (Python/getopt.c)."""
    letters: set[str] = set()
    arguments = iter(argv[1:])
    for argument in arguments:
        if argument == "--":
            return CommandLine(frozenset(letters), next(arguments, "-"), tuple(arguments))
        if argument == "--check-hash-based-pycs":
            next(arguments, None)
        elif argument.startswith("--"):
            continue
        elif argument == "-" or not argument.startswith("-"):
            return CommandLine(frozenset(letters), argument or "-", tuple(arguments))
        else:
            plain, valued, value = _cluster(argument[1:])
            letters.update(plain)
            if valued in ("c", "m"):
                return CommandLine(frozenset(letters), f"-{valued}", (*([value] if value else []), *arguments))
            if valued and not value:
                next(arguments, None)
    return CommandLine(frozenset(letters), "-" if argv else None)


def _cluster(letters: str) -> tuple[str, str, str]:
    # "-uBW error" is u, B, and W with a value: the first letter that takes a value has the rest.
    for at, letter in enumerate(letters):
        if letter in _WITH_VALUE:
            return letters[:at], letter, letters[at + 1 :]
    return letters, "", ""


def interpreter_args() -> list[str]:
    """Return the command, without anything to run, that starts an interpreter equal to this one.

    Raises:
        ImageError: This process is not run by an interpreter that can be started (a frozen or embedded program).
    """
    if program := executable():
        return [program, *interpreter_flags()]
    from bigmachine.errors import ImageError  # not before a local agent is on its way, see `agent.spawned`

    what = f"frozen program {sys.executable}" if sys.executable else "program that embeds Python"
    raise ImageError(
        f"this {what} is no Python interpreter that could be started for a machine: "
        "name one that has the same packages by image=Image(python=...)"
    )


def executable() -> str:
    """Return the interpreter that runs this process; empty if none does that could be started."""
    return "" if getattr(sys, "frozen", False) else sys.executable or ""


def interpreter_flags() -> list[str]:
    """Return the flags of `interpreter_args`, without the executable."""
    import _imp

    letters = parse_command_line(getattr(sys, "orig_argv", [])).letters
    flags = [f"-{letter * count}" for name, letter in _COUNTED.items() if (count := getattr(sys.flags, name)) > 0]
    flags += [f"-{letter}" for letter in "uR" if letter in letters]
    flags += _isolation()
    if (check := getattr(_imp, "check_hash_based_pycs", "default")) != "default":
        flags += ["--check-hash-based-pycs", check]
    flags += [f"-W{option}" for option in given_warnings(sys.warnoptions, sys.flags.bytes_warning, sys.flags.dev_mode)]
    flags += _x_options(getattr(sys, "_xoptions", {}), sys.flags.dev_mode)
    return flags


def _isolation() -> Iterator[str]:
    if sys.flags.isolated:  # implies the others
        yield "-I"
        return
    for name, letter in (("ignore_environment", "E"), ("no_user_site", "s"), ("safe_path", "P")):
        if getattr(sys.flags, name, False):
            yield f"-{letter}"


def given_warnings(options: Sequence[str], bytes_warning: int, dev_mode: bool) -> list[str]:
    """Return the warning options without those that `-b` and `-X dev` add by themselves."""
    implied = {1: ["default::BytesWarning"], 2: ["error::BytesWarning"]}.get(min(bytes_warning, 2), [])
    given = list(options)
    for option in [*implied, *(["default"] if dev_mode else [])]:
        if option in given:
            given.remove(option)
    return given


def _x_options(options: Mapping[str, str | bool], dev_mode: bool) -> Iterator[str]:
    if dev_mode:
        yield from ("-X", "dev")
    for name, value in options.items():
        if name != "dev":
            yield from ("-X", name if value is True else f"{name}={value}")
