"""Watch for the notice that a provider gives a host before it takes it back.

On EC2 a spot instance is told two minutes before, by its own metadata service, which answers nobody but the host, and
only whoever has first asked for a token (IMDSv2). Nobody is told: one has to ask again and again.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from bigmachine.agent.events import Notice

#: The metadata service, and how to be let in.
_EC2: Final = "169.254.169.254"
_TOKEN, _TOKEN_LIFE = "/latest/api/token", 21600
_SPOT: Final = "/latest/meta-data/spot/instance-action"
#: Seconds between questions, and for an answer.
_PERIOD, _PATIENCE = 2.0, 2.0


async def watch(provider: str, tell: Callable[[Notice], None]) -> None:
    """Ask until there is a notice, and tell it; returns then, or at once where there is nobody to ask."""
    if provider != "ec2":
        return
    metadata = _Metadata(_EC2)
    while True:
        notice = await asyncio.to_thread(metadata.ask)
        if notice is not None:
            tell(notice)
            return
        await asyncio.sleep(_PERIOD)


class _Metadata:
    """The metadata service of EC2."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._token = ""
        self._until = 0.0

    def ask(self) -> Notice | None:
        """Ask for a notice; None also if nobody answers."""
        try:
            if time.monotonic() >= self._until:
                self._token = self._fetch("PUT", _TOKEN, {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_LIFE)})
                self._until = time.monotonic() + _TOKEN_LIFE / 2
            return parse(self._fetch("GET", _SPOT, {"X-aws-ec2-metadata-token": self._token}))
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def _fetch(self, method: str, path: str, headers: dict[str, str]) -> str:
        connection = http.client.HTTPConnection(self._host, timeout=_PATIENCE)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            text = answer.read(4096).decode()
        finally:
            connection.close()
        if answer.status == 401:
            self._until = 0.0  # the token is not taken any more
        return text if answer.status == 200 else ""


def parse(text: str) -> Notice | None:
    """Read what EC2 says: `{"action": "terminate", "time": "2026-01-02T03:04:05Z"}`, or nothing.

    Raises:
        ValueError: if it is something else.
    """
    if not text:
        return None
    try:
        said = json.loads(text)
        end = datetime.strptime(said["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
        return Notice(end, f"EC2 takes the instance back ({said['action']})")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{text!r} is no notice of EC2") from error


__all__ = ["parse", "watch"]
