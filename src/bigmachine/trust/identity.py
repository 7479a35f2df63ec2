"""Who somebody is in a session, as pure values: the role, the peer's name, and the identity that proves it.

A name is said twice in a certificate, for two readers. TLS itself reads the DNS name (the id alone, because that is
what a caller puts into SNI and what OpenSSL compares), so a machine cannot be reached under another one's id. The
library reads the URI (`bigmachine://<session>/<role>/<id>`), so a caller's rights follow from a proven role.

Both are safe to print, to put into a URI and to use as a DNS label because one rule admits them all: lower-case
letters, digits and inner hyphens, at most 63 (RFC 1035, section 2.3.1). Lower case only: DNS compares without regard
to case, and two ids that OpenSSL takes for one must not be two ids here.
"""

from __future__ import annotations

import enum
import re
from dataclasses import field
from typing import TYPE_CHECKING

from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEME = "bigmachine://"
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Role(enum.StrEnum):
    """What somebody is in a session, and so what they may ask for.

    The driver owns the session. An agent stands for a host and a machine for a program on it: both are called and
    call others. A client only calls: a person with curl, or a program of another session's owner. Bootstrap is what a
    bare host is until it has made a key of its own: the driver alone calls it, once, to certify that key; whoever gets
    hold of a bootstrap key (it lay in user data, or went through a login shell) can be nobody else with it.
    """

    DRIVER = "driver"
    AGENT = "agent"
    MACHINE = "machine"
    CLIENT = "client"
    BOOTSTRAP = "bootstrap"

    @property
    def serves(self) -> bool:
        """Whether somebody in this role accepts connections."""
        return self in (Role.AGENT, Role.MACHINE, Role.BOOTSTRAP)


@frozen
class Peer:
    """The proven name of somebody in a session.

    Raises:
        ValueError: if the session or the id cannot be a DNS label.
    """

    session: str
    role: Role
    id: str

    def __post_init__(self) -> None:
        for what, name in (("session", self.session), ("id", self.id)):
            if not _LABEL.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot be the {what} of a peer: use 1 to 63 lower-case letters, digits and inner hyphens"
                )

    @property
    def uri(self) -> str:
        """The name as it stands in a certificate."""
        return f"{_SCHEME}{self.session}/{self.role.value}/{self.id}"

    @classmethod
    def parse_uri(cls, uri: str) -> Peer:
        """Read what `uri` wrote, and nothing else: no query, no port, no escapes, no other spelling.

        Raises:
            ValueError: if it is not the URI of a peer.
        """
        parts = uri.removeprefix(_SCHEME).split("/")
        if not uri.startswith(_SCHEME) or len(parts) != 3:
            raise ValueError(f"{uri!r} does not name a peer: expected {_SCHEME}<session>/<role>/<id>")
        try:
            return cls(parts[0], Role(parts[1]), parts[2])
        except ValueError as error:
            raise ValueError(f"{uri!r} does not name a peer: {error}") from error

    def __str__(self) -> str:
        return f"{self.role.value} {self.id} of session {self.session}"


@frozen
class Identity:
    """A peer's name with what proves it: its certificate, its private key, and the authority it believes in.

    All three are PEM. It travels by pickle or as a dict over channels that are private already (an inherited pipe, a
    TLS connection); its `repr` shows only the name, so that a log or a traceback with locals cannot give the key away.
    """

    session: str
    role: Role
    id: str
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    authority: bytes = field(repr=False)

    @property
    def peer(self) -> Peer:
        """The name alone, as others see it."""
        return Peer(self.session, self.role, self.id)

    def to_dict(self) -> dict[str, str]:
        """Give everything, the key included, as text that fits into JSON."""
        return {
            "session": self.session,
            "role": self.role.value,
            "id": self.id,
            "certificate": self.certificate.decode("ascii"),
            "key": self.key.decode("ascii"),
            "authority": self.authority.decode("ascii"),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, str]) -> Identity:
        """Read what `to_dict` gave.

        Raises:
            ValueError: if a field is missing or no text, or the role unknown. The values of the secret fields are not
                part of the message.
        """
        for name in ("session", "role", "id", "certificate", "key", "authority"):
            if not isinstance(fields.get(name), str):
                raise ValueError(  # noqa: TRY004 (what came from outside is wrong, not the caller's argument)
                    f"this identity lacks {name!r}: was it written by another version of bigmachine?"
                )
        peer = Peer(fields["session"], Role(fields["role"]), fields["id"])
        return cls(
            peer.session,
            peer.role,
            peer.id,
            certificate=fields["certificate"].encode("ascii"),
            key=fields["key"].encode("ascii"),
            authority=fields["authority"].encode("ascii"),
        )
