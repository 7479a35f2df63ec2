"""The command lines of the agent, and of programs that it spawns.

`-c` and a path prepended, rather than `-m`: the child must find the same library as the agent did, also where that is
not installed, and nothing that lies in the current directory. Nothing secret is in here; that comes by the control
socket, always as descriptor 3.
"""

from __future__ import annotations

import json
import sys
from typing import Final

#: Where the child finds its end of the control socket.
CONTROL_FD: Final = 3
#: In the environment of the agent's children that are not machines, and of what is forked of them.
AGENT_MARK: Final = "BIGMACHINE_AGENT"

_CODE: Final = (
    "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); "
    "from bigmachine.{module} import main; main(json.loads(sys.argv[2]))"
)


def agent_command(
    sys_path: list[str],
    *,
    python: str = "",
    interpreter: list[str] | None = None,
    preload: tuple[str, ...] = (),
    inherited: tuple[int, int] | None = None,
) -> list[str]:
    """Give the command of an agent, to be started by a driver whose module search path is `sys_path`.

    `interpreter`: the command that starts a Python for programs (default: one equal to this). The agent is started by
    it, too, and forks the zygote, which imports `preload`, as soon as it has imported what both need: a second
    interpreter would take 60 ms of computing and 8 MiB. An empty list: no zygote. The agent is then isolated and
    without `site` (-I -S), out of reach of the environment and the user's .pth files; its interpreter is `python`
    (default: this one). `inherited`: on a host of its own, where stage 0 becomes the agent, the descriptors of the
    listening socket and of the orders.

    Whoever starts it should put AGENT_MARK with a fresh value into its environment; an agent that lacks
    it puts it there itself, and starts once more.
    """
    if interpreter is None:
        interpreter = _own_interpreter()
    flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode and inherited is None else [])]
    command = interpreter or [python or sys.executable, *flags]
    orders = json.dumps({"interpreter": interpreter, "sys_path": sys_path, "preload": preload, "inherited": inherited})
    return [*command, "-c", _CODE.format(module="agent.main"), json.dumps(sys_path), orders]


def _own_interpreter() -> list[str]:
    from bigmachine.image.interpreter import executable, interpreter_flags  # in the driver only

    program = executable()
    return [program, *interpreter_flags()] if program else []  # it will be said of the machines, if they have no other


def program_command(interpreter: list[str], sys_path: list[str], agent_pid: int, files: int) -> list[str]:
    """Give the command of a program that starts by itself. `files`: its limit on open files, as the driver's is."""
    orders = json.dumps({"parent": agent_pid, "files": files})
    return [*interpreter, "-c", _CODE.format(module="program.main"), json.dumps(sys_path), orders]


__all__ = ["AGENT_MARK", "CONTROL_FD", "agent_command", "program_command"]
