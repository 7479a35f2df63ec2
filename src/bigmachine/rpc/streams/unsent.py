"""Streams among the arguments of a call that was never sent: nobody else will close them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from bigmachine.rpc.streams.arguments import Feed
from bigmachine.rpc.streams.streamed import Carrier

_log = logging.getLogger("bigmachine.rpc")


def close_unsent(carrier: Carrier, feeds: Iterable[Feed]) -> None:
    """Close the sources that are ours to close; on the reactor's thread."""
    for feed in feeds:
        if not feed.closes:
            continue  # a file that the caller opened
        source = feed.source
        if (close := getattr(source, "close", None)) is not None:
            carrier.run_in_thread(_Closing(close))  # it may run the user's code
        elif (aclose := getattr(source, "aclose", None)) is not None:
            carrier.reactor.spawn(_close_async(aclose), "close an unsent stream")


@dataclass(slots=True)
class _Closing:
    close: Callable[[], object]

    def run(self) -> None:
        try:
            self.close()
        except Exception:  # noqa: BLE001 (the user's code; nobody waits for it)
            _log.exception("closing a stream that was not sent failed")


async def _close_async(aclose: Callable[[], Awaitable[object]]) -> None:
    try:
        await aclose()
    except Exception:  # noqa: BLE001 (the user's code; nobody waits for it)
        _log.exception("closing a stream that was not sent failed")
