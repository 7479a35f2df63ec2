"""What an agent is told on its standard input when it starts: a length of four bytes, big-endian, and that much JSON.

It holds the agent's private key; standard input is a pipe that only the two processes have, so it is never in argv,
in the environment or in a file. The pipe stays open afterwards: its end is the tether.

An agent that was stage 0 before has a pipe of its own for its orders, JSON until its end, and a socket that listens
already; the tether is standard input for both.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

from bigmachine.frozen import frozen
from bigmachine.trust.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Where an agent that was stage 0 finds the listening socket and a pipe with its orders, as `stage0` has it.
LISTEN_FD: Final = 60
ORDERS_FD: Final = 61

#: More is not an agent's orders; a mistaken peer must not make it wait for gigabytes.
_LIMIT: Final = 16 << 20


@frozen
class Clocks:
    """The agent's clocks, in seconds (DESIGN.md, the table of clocks)."""

    lease: float = 10.0
    hang: float = 10.0
    first_contact: float = 120.0


@frozen
class Bootstrap:
    """An agent's first orders.

    `interpreter` is the command that starts a Python for programs, `sys_path` the driver's `sys.path`. `tethered`:
    the end of standard input means that the driver is gone. `driver_pid`: the agent's parent, if that is the driver
    itself: then the end of that process counts too (a child that the driver forked may hold the pipe open).
    `notices`: the provider ("ec2") that gives notice to the host before it takes it back, if there is one. `cache`: the
    folder where images are kept, if it is not the user's own.
    """

    identity: Identity
    clocks: Clocks
    listen: tuple[str, int]
    interpreter: list[str]
    sys_path: list[str]
    tethered: bool = True
    driver_pid: int = 0
    notices: str = ""
    cache: str = ""

    def to_json(self) -> bytes:
        """Write it as the agent reads it, the length in front."""
        text = json.dumps(
            {
                "identity": self.identity.to_dict(),
                "keepalive": {
                    "lease": self.clocks.lease,
                    "hang": self.clocks.hang,
                    "first_contact": self.clocks.first_contact,
                },
                "listen": list(self.listen),
                "interpreter": self.interpreter,
                "sys_path": self.sys_path,
                "tethered": self.tethered,
                "driver_pid": self.driver_pid,
                "notices": self.notices,
                "cache": self.cache,
            }
        ).encode()
        return len(text).to_bytes(4) + text

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Bootstrap:
        """Read the JSON object.

        Raises:
            KeyError, TypeError, ValueError: if it is not what `to_json` writes.
        """
        host, port = fields["listen"]
        return cls(
            identity=Identity.from_dict(fields["identity"]),
            clocks=Clocks(**fields["keepalive"]),
            listen=(str(host), int(port)),
            interpreter=list(fields["interpreter"]),
            sys_path=list(fields["sys_path"]),
            tethered=bool(fields.get("tethered", True)),
            driver_pid=int(fields.get("driver_pid", 0)),
            notices=str(fields.get("notices", "")),
            cache=str(fields.get("cache", "")),
        )

    @classmethod
    def from_json(cls, data: bytes) -> Bootstrap:
        """Read what `to_json` gave, the length included."""
        return cls.from_dict(json.loads(data[4:]))

    @classmethod
    def read_all(cls, fd: int) -> Bootstrap:
        """Read the JSON alone, from a pipe that ends with it, and close that.

        Raises:
            ValueError: if it is something else.
        """
        with open(fd, "rb") as file:
            return cls.from_dict(json.loads(file.read(_LIMIT)))

    @classmethod
    def read(cls, fd: int) -> Bootstrap | None:
        """Read it from a pipe; None if that ends before: then there is no driver any more.

        Raises:
            ValueError: if it is something else.
        """
        header = _read_exactly(fd, 4)
        if header is None:
            return None
        length = int.from_bytes(header)
        if length > _LIMIT:
            raise ValueError(f"an agent's orders of {length} bytes: standard input must begin with Bootstrap.to_json()")
        text = _read_exactly(fd, length)
        return None if text is None else cls.from_dict(json.loads(text))


def _read_exactly(fd: int, count: int) -> bytes | None:
    # os.read, not a buffered file: not one byte of what follows may be taken, for the end of it is the tether.
    data = b""
    while len(data) < count:
        piece = os.read(fd, count - len(data))
        if not piece:
            return None
        data += piece
    return data


__all__ = ["LISTEN_FD", "ORDERS_FD", "Bootstrap", "Clocks"]
