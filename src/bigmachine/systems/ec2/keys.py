"""The public SSH keys of whoever runs the driver: what may log in to its hosts, to look after them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from bigmachine.systems.ec2.options import is_key

#: User data has no room for all the keys of somebody who collects them.
_MOST = 8


def public_keys() -> tuple[str, ...]:
    """Read those in `~/.ssh/*.pub`, and those that the SSH agent has."""
    texts = []
    for path in sorted(Path("~/.ssh").expanduser().glob("*.pub")):
        try:
            texts.append(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
    if os.environ.get("SSH_AUTH_SOCK"):
        try:
            told = subprocess.run(
                ["ssh-add", "-L"],  # noqa: S607 (wherever the user's is)
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=2,
                check=False,
            )
            texts.append(told.stdout)
        except (OSError, subprocess.TimeoutExpired):
            pass  # no agent, or one that asks a person
    return distinct(line for text in texts for line in text.splitlines())


def distinct(lines: Iterable[str]) -> tuple[str, ...]:
    """Give the lines that are keys, each key once."""
    keys: dict[str, str] = {}
    for line in lines:
        if is_key(line):
            fields = line.split()
            keys.setdefault(fields[1], " ".join(fields))
    return tuple(keys.values())[:_MOST]


__all__ = ["distinct", "public_keys"]
