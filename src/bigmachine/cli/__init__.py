"""The command line `bigmachine`: looks at, and takes part in, the sessions of the same user on the same computer.

    commands   the table of commands, and where each is
    main       argparse, errors and exit codes
    client     the other side of `session.control`
    choosing   which session and which machines are meant
    printing   for people and for programs

One module for a command, or for a few that belong together; imported when its command is called.
"""

from __future__ import annotations

from bigmachine.cli.main import main

__all__ = ["main"]
