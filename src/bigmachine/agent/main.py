"""The agent's process, from its start to its end.

The order matters for the time to the first machine. The command line holds nothing secret, but all that the zygote
needs; so that is started first, before anything heavy is imported, and imports while the agent does, on another
processor. Then the agent imports the rest, and only then it reads its orders: the driver is busy meanwhile, making
its certificate authority.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from typing import Any

from bigmachine.agent.undertaker import AGENT_MARK, Undertaker
from bigmachine.agent.zygote import Zygote


def main(options: dict[str, Any]) -> None:
    """Be an agent: read the orders from standard input, say the port on standard output, serve until the end."""
    with contextlib.suppress(PermissionError):  # whoever started us saw to it
        os.setsid()  # a Ctrl-C on the driver's terminal is the driver's business
    for descriptor in options.get("inherited") or ():
        os.set_inheritable(descriptor, False)  # it is ours, and none of what we start
    os.environ[AGENT_MARK] = os.urandom(8).hex()  # what is forked off the zygote is found by it
    zygote = _start_zygote(options)
    undertaker = Undertaker.engage() if sys.platform.startswith("linux") else None
    gc.disable()  # it would run 50 times during the imports, find nothing, and take 8 % of their time

    from bigmachine.agent.run import run  # the rest: asyncio, ssl, rpc

    gc.freeze()
    gc.enable()
    run(zygote, undertaker, options.get("inherited"))


def _start_zygote(options: dict[str, Any]) -> Zygote | None:
    if not options["interpreter"] or not sys.platform.startswith("linux"):
        return None  # frameworks of macOS do not survive a fork
    try:
        return Zygote.start(options["interpreter"], options["sys_path"], options["preload"])
    except OSError:
        return None  # spawning will say what is wrong with the interpreter, to whom it concerns


__all__ = ["main"]
