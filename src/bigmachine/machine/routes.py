"""Where a machine is: its address, and the peers behind it (its program, its agent).

An address is `host:port/machine-id`, and a machine's id begins with its agent's: `127.0.0.1:41023/h1a2b3c-m3`. The
id is checked in the handshake, so it names this very machine, not whatever listens there later. Pure.
"""

from __future__ import annotations

import re

from bigmachine.errors import InvalidCall
from bigmachine.frozen import frozen

_ADDRESS = re.compile(
    r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+(?:%\w+)?)\]|(?P<host>[^\s/\[\]:]+)):(?P<port>[0-9]{1,5})/(?P<id>[\w.]+(?:-[\w.]+)+)",
    re.ASCII,
)


@frozen
class Address:
    """A machine's address in its parts; `port` 0 stands for a machine inside a process."""

    host: str
    port: int
    machine_id: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port/machine-id`.

        Raises: InvalidCall.
        """
        given: object = text
        match = _ADDRESS.fullmatch(given) if isinstance(given, str) else None
        if match is None or int(match["port"]) > 65535:
            raise InvalidCall(f"{text!r} is no machine's address: it has to be like 127.0.0.1:41023/h1a2b3c-m3")
        return cls(match["ipv6"] or match["host"], int(match["port"]), match["id"])

    @property
    def agent_id(self) -> str:
        """The id of the agent that has this machine; its own, if it is an agent's address."""
        return self.machine_id.rpartition("-")[0] or self.machine_id

    @property
    def agent(self) -> Address:
        """The address of that agent."""
        return Address(self.host, self.port, self.agent_id)

    @property
    def name(self) -> str:
        """The short name for logs."""
        return self.machine_id.rpartition("-")[2]

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.machine_id}"
