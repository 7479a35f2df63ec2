"""What runs on a host: one small process that starts the machines there, watches them, and sees that they end.

The agent is started by a System, as a child of the driver or over a stream that ends with the driver. It gives every
machine a process, connections, a lease and, at the end, a certificate; it passes on what they write; and when the
driver is gone it kills all of them. From the bottom up:

- pure: `hello` (whom a ClientHello wants), `lease`, `vitals` (hung or busy), `output` (last lines), `events`,
  `certificate`
- `processes`: how machines are forked, spoken to, waited for and ended, with all that they started or made
- `watch`: memory and who was killed for it, samples of stacks, a provider's notices
- the agent: `hosted` (one machine), `host` (all of them), `feed`, `service` and `supervisor` (what can be called),
  `shortage` (what a machine held), `tcp` (the front door), `run`, `main`
- `bare`: hosts that have nothing of ours yet; it runs at the driver, but for `stage0`, which is what it sends

Importing this package loads none of that: the agent's own start goes through here, and forks the undertaker first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigmachine.lazy import lazily

if TYPE_CHECKING:
    from bigmachine.agent.bootstrap import Bootstrap, Clocks
    from bigmachine.agent.commands import agent_command
    from bigmachine.agent.events import Dumped, Event, Halted, MemoryShort, Noticed, Output, PhaseChanged, Stopped
    from bigmachine.agent.identity import give_identity
    from bigmachine.agent.images import Onward
    from bigmachine.agent.launch import LaunchSpec, Preload
    from bigmachine.agent.replies import KeepaliveReply, MachineInfo

_HOME = {
    "Bootstrap": "bootstrap",
    "Clocks": "bootstrap",
    "Dumped": "events",
    "Event": "events",
    "Halted": "events",
    "KeepaliveReply": "replies",
    "LaunchSpec": "launch",
    "MachineInfo": "replies",
    "MemoryShort": "events",
    "Noticed": "events",
    "Onward": "images",
    "Output": "events",
    "PhaseChanged": "events",
    "Preload": "launch",
    "Stopped": "events",
    "agent_command": "commands",
    "give_identity": "identity",
}

__getattr__ = lazily(__name__, _HOME)

__all__ = [
    "Bootstrap",
    "Clocks",
    "Dumped",
    "Event",
    "Halted",
    "KeepaliveReply",
    "LaunchSpec",
    "MachineInfo",
    "MemoryShort",
    "Noticed",
    "Onward",
    "Output",
    "PhaseChanged",
    "Preload",
    "Stopped",
    "agent_command",
    "give_identity",
]
