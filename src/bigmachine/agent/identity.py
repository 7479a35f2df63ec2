"""The identity that an agent answers by, and how a bare host gets one of its own.

A bare host begins with an identity that somebody else made, and that went through a login or user data on its way. So
the first thing that the driver asks of its agent is a request to certify a key that was made there, and its second is
to adopt the certificate. From then on the agent answers new connections by that alone, and the first identity is
forgotten. On the driver's side it is its role, bootstrap, that keeps it from being used again: a driver looks for that
role only here, and only once; everybody else looks for an agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bigmachine.errors import InvalidCall
from bigmachine.rpc import Codec, Link
from bigmachine.trust import Identity, Peer, Role, server_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from bigmachine.rpc import Dialer, Reactor
    from bigmachine.trust.request import CertificateRequest

#: For one of the two calls.
_TIMEOUT: Final = 20.0


class OwnIdentity:
    """An agent's identity, and the context by which it accepts connections.

    Raises:
        AuthenticationError: if the identity cannot be used.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._asked: CertificateRequest | None = None
        self.context: ssl.SSLContext = server_context(identity)

    @property
    def identity(self) -> Identity:
        """Who it is now."""
        return self._identity

    def request(self) -> bytes:
        """Make a key, and return the request to certify it (PEM); asked again, the same one.

        Raises:
            InvalidCall: if this agent has an identity of its own already.
            AuthenticationError: if no key can be made.
        """
        from bigmachine.trust.request import certificate_request  # ctypes: 3 ms that only bare hosts pay

        self._check()
        if self._asked is None:
            self._asked = certificate_request(Peer(self._identity.session, Role.AGENT, self._identity.id))
        return self._asked.request

    def adopt(self, certificate: bytes) -> None:
        """Answer by this certificate (PEM) and its key from now on.

        Raises:
            InvalidCall: if none was asked for, or one was adopted already.
            AuthenticationError: if it is not that of the key.
        """
        self._check()
        if self._asked is None:
            raise InvalidCall("a certificate that was not asked for: call certificate_request first")
        old = self._identity
        own = Identity(old.session, Role.AGENT, old.id, certificate, self._asked.key, old.authority)
        self.context = server_context(own)
        self._identity, self._asked = own, None

    def _check(self) -> None:
        if self._identity.role is not Role.BOOTSTRAP:
            raise InvalidCall(f"{self._identity.peer} has an identity of its own already")


async def give_identity(
    reactor: Reactor, dialer: Dialer, agent_id: str, sign: Callable[[bytes, Role, str], bytes]
) -> None:
    """Certify an agent's own key; `sign` is `Authority.sign`, and `dialer` accepts the role bootstrap alone.

    Runs on the reactor's thread. Afterwards the agent is dialled as one.

    Raises:
        NetworkError, AuthenticationError: if it does not come about.
    """
    link = Link(reactor, dialer, codec=Codec(machine=agent_id), name=f"agent {agent_id}")
    try:
        request: bytes = await link.submit("Agent.certificate_request", (), {}, _TIMEOUT)
        await link.submit("Agent.adopt", (sign(request, Role.AGENT, agent_id),), {}, _TIMEOUT)
    finally:
        link.close(InvalidCall(f"agent {agent_id} has an identity of its own now"))


__all__ = ["OwnIdentity", "give_identity"]
