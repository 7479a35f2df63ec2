"""`bigmachine completion`: what a shell completes after `bigmachine`.

Written here rather than by shtab: what is to be completed is a list of words from argparse and the names of machines
that run, and that is one function (`words`) and a few lines for each shell. The shells ask `bigmachine completion
words`, so nothing that is sourced becomes stale, and only the module of the command at hand is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bigmachine.cli.client import OK
from bigmachine.cli.printing import say, write

_SCRIPTS = {
    "bash": """\
_bigmachine() {
    local IFS=$'\\n' word="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=($(compgen -W "$(bigmachine completion words "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)" -- "$word"))
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace
}
complete -o default -F _bigmachine bigmachine
""",
    "zsh": """\
#compdef bigmachine
_bigmachine() {
    local -a found
    found=(${(f)"$(bigmachine completion words "${(@)words[2,CURRENT-1]}" 2>/dev/null)"})
    compadd -a found || _files
}
if [[ ${funcstack[1]} == _bigmachine ]]; then
    _bigmachine "$@"  # a file of $fpath, loaded at the first Tab
else
    compdef _bigmachine bigmachine
fi
""",
    "fish": """\
complete -c bigmachine -a '(bigmachine completion words (commandline -opc)[2..-1] 2>/dev/null)'
""",
}
#: Commands whose arguments are machines of a running session, and those with MACHINE:FILE.
_OF_MACHINES = frozenset(("attach", "debug", "kill", "logs", "pdb", "shell", "status", "timeline"))
_OF_FILES = frozenset(("cp",))


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    shells = f"{{{','.join(_SCRIPTS)}}}"
    parser.add_argument("shell", choices=[*_SCRIPTS, "words"], metavar=shells, help="the shell to complete in")
    # What is on the line, for `words`, which the scripts call.
    before = parser.add_argument("before", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    before.required = False  # argparse says so of a remainder, which may be empty


def run_completion(args: argparse.Namespace) -> int:
    """Print a script for the shell, or what could be the next word."""
    if args.shell == "words":
        for word in words(args.before):
            say(word)
    else:
        write(_SCRIPTS[args.shell])
    return OK


def words(before: Sequence[str]) -> list[str]:
    """Give what may follow these words."""
    from bigmachine.cli.commands import COMMANDS
    from bigmachine.cli.main import parser_for

    command = next((word for word in before if word in COMMANDS), None)
    if command is None:
        return list(COMMANDS)
    last = before[-1]
    if last in ("-s", "--session"):
        return _sessions()
    if last in ("-m", "--machine"):
        return _machines()
    actions = _actions(parser_for([command]), command)
    values = next((each for each in actions if last in each.option_strings and each.nargs != 0), None)
    if values is not None:  # this option's value comes next: one of these, or what only a person knows
        return [str(choice) for choice in values.choices or ()]
    options = _words(actions)
    if command in _OF_MACHINES:
        return [*_machines(), *options]
    if command in _OF_FILES:
        return [*(f"{name}:" for name in _machines()), *options]
    return options


def _actions(parser: argparse.ArgumentParser, command: str) -> list[argparse.Action]:
    return [
        each
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for each in action.choices[command]._actions
    ]


def _words(actions: Sequence[argparse.Action]) -> list[str]:
    found = []
    for each in actions:
        found += [option for option in each.option_strings if option.startswith("--")]
        found += [str(choice) for choice in each.choices or () if not each.option_strings and choice != "words"]
    return found


def _machines() -> list[str]:
    """Name the machines of the sessions that run: by the register, which asks nobody."""
    from bigmachine.session.register import sessions

    names = {
        str(machine["name"])
        for entry in sessions()
        if entry.is_running
        for machine in entry.record.machines
        if machine["state"] != "STOPPED"
    }
    return sorted(names, key=lambda name: (len(name), name))


def _sessions() -> list[str]:
    from bigmachine.session.register import sessions

    return [entry.record.id for entry in sessions() if entry.is_running]


__all__ = ["add_completion", "run_completion", "words"]
