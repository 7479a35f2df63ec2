"""By what instances of this library are found, also when the driver that made them has died. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from bigmachine.frozen import frozen

#: The tag that they all have.
MARK = "bigmachine"
SESSION, REQUEST = f"{MARK}:session", f"{MARK}:request"
DRIVER, USER, PROGRAM, EXPIRY, DIGEST = (f"{MARK}:{key}" for key in ("driver", "user", "program", "expiry", "digest"))
_LENGTH = 250


@frozen
class Origin:
    """Whose instances they are. `expiry`: seconds since the epoch; whatever is still there then has been forgotten."""

    session: str
    driver: str
    user: str
    program: str
    expiry: float
    digest: str = ""

    def tags(self, request: str, more: Mapping[str, str]) -> dict[str, str]:
        """Give the tags of what one request makes; `more` are the user's.

        The command line is not among them: it may hold secrets.
        """
        own = {
            MARK: "true",
            SESSION: self.session,
            REQUEST: request,
            DRIVER: self.driver,
            USER: self.user,
            PROGRAM: self.program,
            EXPIRY: datetime.fromtimestamp(self.expiry, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if self.digest:
            own[DIGEST] = self.digest
        name = f"{self.user}:{self.program} (bigmachine)"
        own = {key: value if len(value) <= _LENGTH else value[:_LENGTH] + "..." for key, value in own.items()}
        return {"Name": name[:_LENGTH], **more, **own}


def specifications(tags: Mapping[str, str], *kinds: str) -> list[dict[str, object]]:
    """Say it for a request that makes resources of these kinds."""
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": kind, "Tags": listed} for kind in kinds]


def read(tags: list[Mapping[str, str]]) -> dict[str, str]:
    """Read the tags of a resource."""
    return {tag["Key"]: tag.get("Value", "") for tag in tags}


def expiry(tags: Mapping[str, str]) -> float | None:
    """Read when a resource has outlived itself, in seconds since the epoch; None if it does not say."""
    try:
        return datetime.strptime(tags[EXPIRY], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except (KeyError, ValueError):
        return None


__all__ = [
    "DIGEST",
    "DRIVER",
    "EXPIRY",
    "MARK",
    "PROGRAM",
    "REQUEST",
    "SESSION",
    "USER",
    "Origin",
    "expiry",
    "read",
    "specifications",
]
