"""Collect what a machine holds while its memory runs short, before the kernel may kill it.

The program answers itself, with a census of its heap and its variables, if it can; one that is busy in C, hung or
too slow is looked at from outside. Whatever there is goes to the driver at once: there may be no later.
"""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING, Final

from bigmachine.agent.watch import pyspy
from bigmachine.errors import MachineStopped

if TYPE_CHECKING:
    from bigmachine.agent.feed import Feed
    from bigmachine.agent.hosted import Hosted
    from bigmachine.agent.processes.reaper import Reaper
    from bigmachine.agent.watch.memory import Shortage

#: A census takes a second at most; a program that lets it wait so much longer will not come to it.
_PATIENCE: Final = 3.0
#: A machine that has less than this part of what is short is not what fills it.
_PART: Final = 0.05


async def dump(machine: Hosted, shortage: Shortage, reaper: Reaper, feed: Feed) -> None:
    """Tell the driver what `machine` holds, if that is worth looking at."""
    pool = shortage.pool
    if shortage.resident < _PART * pool.limit:
        return
    answer = await machine.dump(max(0, pool.limit - pool.used), _PATIENCE)
    files = {}
    if answer is not None:
        files["heap.txt"] = answer.text("heap").encode()
        with contextlib.suppress(ValueError):
            files["heap.pb.gz"] = base64.b64decode(answer.text("profile"))
    else:
        with contextlib.suppress(MachineStopped):
            files["stacks.txt"] = (await pyspy.dump_hung(reaper, machine.pid)).encode()
    variables = {
        "machine": machine.id,
        "memory": {
            "pool": pool.name,
            "used": pool.used,
            "limit": pool.limit,
            "pressure": pool.pressure,
            "machine": shortage.resident,
        },
        "started": machine.started,
        "output_bytes": machine.output_bytes,
        "program": None if answer is None else answer.body.get("vars"),
    }
    files["vars.json"] = (json.dumps(variables, indent=1) + "\n").encode()
    feed.dumped(machine.id, tuple((name, data) for name, data in files.items() if data))


__all__ = ["dump"]
