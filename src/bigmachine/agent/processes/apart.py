"""Start programs of this host that look at something for the agent, and are none of its machines."""

from __future__ import annotations

import os
import sys


def start_apart(command: list[str], *descriptors: int) -> int:
    """Start a program in a session of its own; gives its process id. It has `descriptors` as 1, 2 and so on.

    Linux shares processors among sessions (sched(7), autogroups), and the agent would have to share its part with all
    of them. macOS has no such thing, nor always this option.

    Raises:
        OSError: if it cannot be started.
    """
    return os.posix_spawnp(
        command[0],
        command,
        os.environ,
        **({"setsid": True} if sys.platform == "linux" else {"setpgroup": 0}),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(descriptors, 1)),
        ],
    )


__all__ = ["start_apart"]
