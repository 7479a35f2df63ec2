"""The way from a session to one machine or agent: over TLS with the session's identity, or within the process."""

from __future__ import annotations

import ssl

from bigmachine.errors import InvalidCall
from bigmachine.machine import Address
from bigmachine.rpc import Codec, Dialer, Link, Reactor, TlsDialer
from bigmachine.system import MakeDialer
from bigmachine.trust import Identity, Role, client_context

#: How long a machine may take until it answers a connection: it imports the program before.
_BOOT_TIMEOUT = 200.0


class Links:
    """Makes a session's links."""

    def __init__(self, reactor: Reactor, identity: Identity, limit: int, inside: MakeDialer | None = None) -> None:
        self._inside = inside
        self._ways: dict[str, MakeDialer] = {}
        self._tunnels: dict[str, str] = {}
        self._reactor = reactor
        self._identity = identity
        self._limit = limit
        self._context: ssl.SSLContext | None = None

    def lead(self, agent_id: str, way: MakeDialer) -> None:
        """Reach an agent and its machines in a way of their own, rather than over TLS."""
        self._ways[agent_id] = way

    def tunnel(self, agent_id: str, path: str) -> None:
        """Reach an agent and its machines through the Unix socket at `path`, which leads to the agent's port."""
        self._tunnels[agent_id] = path

    def to_agent(self, address: Address) -> Link:
        """Make a link to an agent; the id of `address` is the agent's."""
        return Link(
            self._reactor,
            self._dialer(address, Role.AGENT, 10.0),
            codec=Codec(machine=address.machine_id, limit=self._limit),
            name=str(address),
        )

    def to_bare(self, address: Address) -> Dialer:
        """Make the way to an agent that has not an identity of its own yet."""
        return self._dialer(address, Role.BOOTSTRAP, 10.0)

    def to_program(self, address: Address, *, by_value: bool) -> Link:
        """Make a link to a machine's program; calls wait in it until it is released."""
        return Link(
            self._reactor,
            self._dialer(address, Role.MACHINE, _BOOT_TIMEOUT),
            codec=Codec(by_value=by_value, machine=address.name, limit=self._limit),
            name=str(address),
            is_held=True,
        )

    def _dialer(self, address: Address, role: Role, handshake: float) -> Dialer:
        way = self._ways.get(address.agent_id, self._inside)
        if way is not None:
            return way(address.machine_id, role)
        if address.port == 0:
            raise InvalidCall(f"{address} is inside another process: it can be reached only from there")
        if self._context is None:
            self._context = client_context(self._identity)
        return TlsDialer(
            address.host,
            address.port,
            address.machine_id,
            self._identity.session,
            (role,),
            self._context,
            handshake_timeout=handshake,
            path=self._tunnels.get(address.agent_id, ""),
        )
