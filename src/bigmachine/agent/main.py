"""The agent's process, from its start to its end.

One interpreter becomes three processes. At once it forks the undertaker, which needs next to nothing. It imports what
agent and machines have in common (asyncio, ssl, rpc), and then, while it has one thread and nothing running, forks the
zygote; that imports what machines need besides, and the agent what it needs itself. Only then it reads its orders: the
driver is busy meanwhile, making its certificate authority.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, Final, NoReturn

from bigmachine.agent.commands import AGENT_MARK
from bigmachine.agent.processes.undertaker import Undertaker

if TYPE_CHECKING:
    import socket

    from bigmachine.agent.processes.zygote import Zygote

#: What the agent and machines need.
_SHARED: Final = (
    "bigmachine.agent.processes.zygote",
    "bigmachine.agent.processes.loop_channel",
    "bigmachine.agent.supervisor",
    "bigmachine.agent.launch",
    "bigmachine.agent.records",
    "bigmachine.rpc.link",
    "bigmachine.rpc.net",
    "bigmachine.rpc.server",
    "encodings.ascii",  # in which `aiofastnet` writes a peer's certificate
)


def main(options: dict[str, Any]) -> None:
    """Be an agent: read the orders from standard input, say the port on standard output, serve until the end."""
    with contextlib.suppress(PermissionError):  # whoever started us saw to it
        os.setsid()  # a Ctrl-C on the driver's terminal is the driver's business
    inherited = options.get("inherited")
    if AGENT_MARK not in os.environ:
        _start_again()
    for descriptor in inherited or ():
        os.set_inheritable(descriptor, False)  # it is ours, and none of what we start
    sys.path[:] = filter(None, sys.path)  # nothing of the current directory
    is_linux = sys.platform.startswith("linux")
    undertaker = Undertaker.engage() if is_linux else None
    gc.disable()  # it would run 50 times during the imports, find nothing, and take 8 % of their time
    # The program's interpreter may have been told to make errors of warnings, which concern the program.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _SHARED:
            importlib.import_module(name)
        with contextlib.suppress(ImportError):
            importlib.import_module("aiofastnet")
        importlib.import_module("bigmachine.trust").warm_up()
    gc.freeze()  # what is here now is looked at by no collection in any of the processes
    # Frameworks of macOS do not survive a fork.
    zygote = _fork_zygote(options) if options["interpreter"] and is_linux else None
    warnings.simplefilter("ignore")

    from bigmachine.agent.run import run  # the rest

    gc.freeze()
    gc.enable()
    run(zygote, undertaker, inherited)


def _start_again() -> None:
    """Begin anew with the mark, which only counts in what a process is started with; the same process goes on."""
    environ = os.environ | {AGENT_MARK: os.urandom(8).hex()}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606 (no shell is wanted)


def _fork_zygote(options: dict[str, Any]) -> Zygote:
    def become(sock: socket.socket) -> NoReturn:
        # Two floors up, and nothing that the agent needs.
        importlib.import_module("bigmachine.program.zygote").be_zygote(sock, agent, options["preload"])
        os._exit(1)  # not reached

    from bigmachine.agent.processes.zygote import Zygote

    agent = os.getpid()
    return Zygote.fork_off(become, options["interpreter"])


__all__ = ["main"]
