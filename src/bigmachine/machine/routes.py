"""Where a machine is: its address, and the peers behind it (its program, its agent).

An address is `host:port/machine-id`, and a machine's id begins with its agent's: `127.0.0.1:41023/h1a2b3c-m3`. The
id is checked in the handshake, so it names this very machine, not whatever listens there later. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from bigmachine.errors import InvalidCall


@dataclass(frozen=True, slots=True)
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
        place, slash, machine_id = text.partition("/")
        host, colon, port = place.rpartition(":")
        if not (slash and colon and host and machine_id and port.isdecimal() and "-" in machine_id):
            raise InvalidCall(f"{text!r} is no machine's address: it has to be like 127.0.0.1:41023/h1a2b3c-m3")
        return cls(host.strip("[]"), int(port), machine_id)

    @property
    def agent_id(self) -> str:
        """The id of the agent that has this machine."""
        return self.machine_id.rpartition("-")[0]

    @property
    def name(self) -> str:
        """The short name for logs."""
        return self.machine_id.rpartition("-")[2]

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}/{self.machine_id}"
