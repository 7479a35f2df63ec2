"""The commands that there are.

A command stands in a module of this package as two functions, named after it (`-` is `_`):

    def add_NAME(parser: argparse.ArgumentParser) -> None   # its arguments, without `--json` and `--session`
    def run_NAME(args: argparse.Namespace) -> int           # the exit code; or it raises Failure, or a BigmachineError

The module is imported when the command is called, or when its arguments must be known (`--help`, completion).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bigmachine.frozen import frozen


@frozen
class Command:
    """A command: its module below `bigmachine.cli`, what it does in a line, and an example of its use.

    `of_session`: it takes `--session`; `json`: it takes `--json`.
    """

    name: str
    module: str
    help: str
    example: str
    of_session: bool = True
    json: bool = True


COMMANDS: Final[Mapping[str, Command]] = {
    command.name: command
    for command in (
        Command(
            "ls",
            "listing",
            "list sessions, running and ended, with their machines",
            "bigmachine ls",
            of_session=False,
        ),
        Command("top", "top", "watch the machines of a session", "bigmachine top"),
        Command("status", "status", "show how the machines of a session are", "bigmachine status"),
        Command("logs", "logs", "show what machines write", "bigmachine logs -f m1 m2"),
        Command(
            "profile",
            "profiles",
            "profile the machines of a session",
            "bigmachine profile --seconds 10 --out cpu.svg",
        ),
        Command("heap", "profiles", "show what machines' memory holds", "bigmachine heap --machine m1"),
        Command("stack", "profiles", "show where machines' threads and tasks are", "bigmachine stack --machine m1"),
        Command("vars", "vars", "show the numbers of the machines of a session", "bigmachine vars 'rpc.calls*'"),
        Command("timeline", "timeline", "show how the machines of a session came up", "bigmachine timeline"),
        Command("kill", "kill", "end machines of a session", "bigmachine kill m3"),
        Command("dump", "dump", "write all that is known of a session to a zip file", "bigmachine dump now.zip"),
        Command("pdb", "talking", "talk to a machine that waits in breakpoint()", "bigmachine pdb m1", json=False),
        Command(
            "attach",
            "talking",
            "stop a machine's program where it is, and debug it",
            "bigmachine attach m1",
            json=False,
        ),
        Command("debug", "editing", "let an editor debug a machine's program (debugpy)", "bigmachine debug m1"),
        Command(
            "shell",
            "talking",
            "be a Python inside a machine's program",
            "bigmachine shell m1 -c 'print(len(services))'",
            json=False,
        ),
        Command(
            "doctor",
            "doctor",
            "say what this computer lacks, what that costs, and what to do",
            "bigmachine doctor",
            of_session=False,
        ),
        Command(
            "completion",
            "completion",
            "print what a shell needs to complete commands and machines",
            "bigmachine completion bash > ~/.local/share/bash-completion/completions/bigmachine",
            of_session=False,
            json=False,
        ),
        Command("cp", "copying", "copy a file to a machine, or from it", "bigmachine cp data.bin m1:/tmp/data.bin"),
        Command(
            "reap",
            "reap",
            "take away what was left behind on EC2",
            "bigmachine reap --region eu-central-1 --yes",
            of_session=False,
        ),
    )
}

__all__ = ["COMMANDS", "Command"]
