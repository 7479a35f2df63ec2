"""The session's certificate authority: made with the session, in the driver's memory only, and gone with it.

Theory. Nobody outside one session believes this authority, and inside it nobody else signs. So there is no
revocation, no renewal and no store: whoever holds an identity is a member until its certificate runs out or the
session's last process ends. The authority's key is never written, pickled or sent (the Go original copies it to every
machine, after which any machine can pose as any other, or as the driver).

Lifetimes. A certificate is looked at in every new handshake, so one that runs out in the middle of a long job cuts the
machine off from whoever dials it next. Leaves therefore last 30 days, longer than any session that was not meant to be
endless (pass `valid_s` for those); a stolen one is worth no more than the session that it belongs to. Those of the role
bootstrap last 15 minutes: they are used once, before the host has made a key of its own. The authority itself never
runs out: if it did, a leaf issued on its last day would live for one day. An end there would protect nobody, as the key
cannot outlive this process anyway.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NoReturn

from bigmachine.errors import AuthenticationError
from bigmachine.trust.identity import Identity, Peer, Role

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 24 * 60 * 60.0
_LEAF_S = 30 * DAY
_BOOTSTRAP_S = 15 * 60.0
_MAX_LEAF_S = 100 * 365 * DAY  # a certificate cannot say a year beyond 9999, nor NaN


class Authority:
    """Issues the identities of one session.

    Issuing takes about 0.1 ms and is safe from any thread; the first authority of a process takes 25 ms more, for
    loading `cryptography`. `clock` gives seconds since the epoch.

    Raises:
        ValueError: if `session` cannot be part of a peer's name.
    """

    def __init__(self, session: str, *, clock: Callable[[], float] = time.time) -> None:
        from bigmachine.trust.certificates import Issuer  # loads cryptography, see there

        Peer(session, Role.DRIVER, "driver")  # refuses a session that no certificate could name
        self.session = session
        self._clock = clock
        # The name is for people who look at a refused connection with openssl; nothing here reads it.
        self._issuer = Issuer(f"bigmachine session {session}"[:64], clock())

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate (PEM): what others need in order to believe its leaves. No secret."""
        return self._issuer.certificate

    def issue(self, role: Role, id: str, valid_s: float | None = None) -> Identity:  # noqa: A002 (the field's name)
        """Make a key and a certificate for `id`, valid from a minute ago for `valid_s` seconds from now.

        By default these are 30 days, or 15 minutes for the role bootstrap.
        Agents and machines are called and call; a driver or client can only call: their certificates are refused as a
        server's by OpenSSL itself.

        Raises:
            ValueError: if `id` cannot be a peer's, or `valid_s` is not between zero and a hundred years.
        """
        peer = Peer(self.session, role, id)
        now, until = self._validity(peer, valid_s)
        certificate, key = self._issuer.leaf(id, peer.uri, serves=role.serves, now=now, until=until)
        return Identity(self.session, role, id, certificate=certificate, key=key, authority=self.certificate)

    def sign(
        self,
        request: bytes,
        role: Role,
        id: str,  # noqa: A002 (the field's name)
        valid_s: float | None = None,
    ) -> bytes:
        """Certify the key of a certificate signing request (PEM), as `issue` does its own; gives the certificate (PEM).

        Who asks has to be known already, by the connection that the request came over: the request proves no more
        than that its sender has the key.

        Raises:
            AuthenticationError: if it is no such request, its signature is wrong, its key is of another kind than this
                authority's, or it asks for another name than that of `role` and `id`.
            ValueError: as `issue`.
        """
        from bigmachine.trust.certificates import requested_key

        peer = Peer(self.session, role, id)
        now, until = self._validity(peer, valid_s)
        try:
            key = requested_key(request, id, peer.uri)
        except ValueError as error:
            raise AuthenticationError(f"a certificate signing request for {peer} was refused: {error}") from error
        return self._issuer.certify(key, id, peer.uri, serves=role.serves, now=now, until=until)

    def _validity(self, peer: Peer, valid_s: float | None) -> tuple[float, float]:
        if valid_s is None:
            valid_s = _BOOTSTRAP_S if peer.role is Role.BOOTSTRAP else _LEAF_S
        if not 0 < valid_s <= _MAX_LEAF_S:
            raise ValueError(f"valid_s={valid_s!r} for {peer}: give seconds, more than 0 and at most a hundred years")
        now = self._clock()
        return now, now + valid_s

    def __repr__(self) -> str:
        return f"Authority(session={self.session!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the authority of session {self.session} stays in its driver: "
            "send an Identity that it issued instead (did a service or a closure capture the Session?)"
        )
