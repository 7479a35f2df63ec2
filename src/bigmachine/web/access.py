"""Who may see the pages: decided from a request's headers. Pure.

The pages show memory, output and stacks of a program, so three kinds of strangers have to be kept out.

    other users of this computer    know the port, but not the token
    a page in the user's browser    may send requests to any address, with the user's cookies: its Origin, or what the
                                    browser says in Sec-Fetch-Site, gives it away
    a name that was bound anew      (DNS rebinding) makes such a page seem to be of this origin: Host is then a name.
                                    An address, or "localhost", cannot be bound anew

The token comes in the URL that is printed, as a bearer token, or in the cookie that the first visit leaves.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable, Mapping

from bigmachine.frozen import frozen

#: The parameter of a URL that has the token.
PARAMETER = "token"


class Refused(Exception):
    """Nothing is shown. `status` as in HTTP; its text is for whoever asked."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@frozen
class Access:
    """Who may see the pages. `hosts`: names under which they are reached; `cookie`: the name of that cookie."""

    token: str = ""
    hosts: frozenset[str] = frozenset()
    cookie: str = "bigmachine"

    @classmethod
    def to(cls, token: str, hosts: Iterable[str], cookie: str = "bigmachine") -> Access:
        """Make it; names of hosts without case."""
        return cls(token, frozenset(host.lower().rstrip(".") for host in hosts), cookie)

    def check(self, method: str, headers: Mapping[str, str], given: str) -> bool:
        """Let a request pass; `given` is the token in its URL. Returns whether the cookie is to be set.

        Raises:
            Refused: if it may not see anything.
        """
        if method not in ("GET", "HEAD"):
            raise Refused(405, f"{method} is not for these pages: they are only read, by GET or HEAD")
        host = headers.get("host", "")
        self._check_host(host)
        _check_origin(method, host, headers)
        return bool(self.token) and self._check_token(headers, given)

    def _check_host(self, host: str) -> None:
        name = name_of(host)
        if "*" in self.hosts or name in self.hosts or name == "localhost" or _is_address(name):
            return
        raise Refused(
            421,
            f"these pages are not served as {name!r}: use an address or localhost; "
            "or name it, as in session.debug_app(hosts=['debug.example.org'])",
        )

    def _check_token(self, headers: Mapping[str, str], given: str) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if given:
            if self._is_right(given):
                return True
            raise Refused(403, "the token in this URL is not the one of this session: its program may have ended")
        if scheme.lower() == "bearer" and self._is_right(bearer.strip()):
            return False
        if any(self._is_right(value) for value in cookies(headers.get("cookie", ""), self.cookie)):
            return False
        raise Refused(403, "these pages are shown to who has the URL with the token, as session.serve_debug() gives it")

    def _is_right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def _check_origin(method: str, host: str, headers: Mapping[str, str]) -> None:
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        raise Refused(403, f"a page of {origin!r} may not read these")
    site = headers.get("sec-fetch-site", "none")
    # Following a link from elsewhere, as from a notebook, shows the page to its user only.
    is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if site not in ("none", "same-origin") and not (is_link and method == "GET"):
        raise Refused(403, "a page of another site may not read these")


def name_of(host: str) -> str:
    """Give the name, or address, in a Host header."""
    name = host.lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return name.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def cookies(header: str, name: str) -> list[str]:
    """Give the values of the cookies of this name."""
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return [value for key, _, value in pairs if key == name]
