"""The called side: a machine's services, for all authenticated peers that are connected to it.

A `Channel` takes a peer's frames, a run (`runs`) carries one method to its outcome. What belongs to the machine as a
whole is here: the services, the threads, the outcomes that are kept for calls sent again, and the counts.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from bigmachine.errors import DeadlineExceeded
from bigmachine.rpc.channel import Channel
from bigmachine.rpc.codec import Codec, Encoded
from bigmachine.rpc.lanes import TOKEN_SIZE
from bigmachine.rpc.ledger import Ledger
from bigmachine.rpc.pool import DEFAULT_THREADS, ThreadPool
from bigmachine.rpc.reactor import Reactor
from bigmachine.rpc.runs import AwaitedRun, Waiting
from bigmachine.rpc.services import Method, ServiceTable
from bigmachine.rpc.statistics import Statistics
from bigmachine.rpc.streams.streamed import stream_kind
from bigmachine.rpc.workers import Workers
from bigmachine.trust import Peer

#: Raises AuthenticationError if the peer may not call the method of this wire name.
Authorize = Callable[[Peer, str], None]


class Closable(Protocol):
    """A connection that can be ended."""

    def close(self) -> None: ...


class Server:
    """The services of one machine, for all who are connected to it. To be made on the event loop it serves from."""

    def __init__(
        self,
        table: ServiceTable,
        *,
        authorize: Authorize | None = None,
        session: object = None,
        codec: Codec | None = None,
        reactor: Reactor | None = None,
        threads: int = DEFAULT_THREADS,
    ) -> None:
        self.table = table
        self.authorize = authorize
        self.session = session
        self.codec = codec or Codec()
        self.reactor = reactor or Reactor(asyncio.get_running_loop())
        self.workers = Workers(self.reactor.loop)
        self.pool = ThreadPool(self.reactor, threads, "bigmachine-call")
        self.channels: set[Channel] = set()
        #: Connections that do not speak frames, or have not begun to.
        self.others: weakref.WeakSet[Closable] = weakref.WeakSet()
        self.ledger: Ledger[Waiting, Encoded] = Ledger()
        #: Called with the key and the method of each call that may be sent again, before it is begun.
        self.on_key: Callable[[bytes, str], None] | None = None
        self.statistics = Statistics(threading.Lock())
        #: How many threads serve connections whose link is not known yet; anybody can cause one.
        self.greeting = 0
        #: Called with each connection's peer when it begins to call.
        self.on_peer: Callable[[Peer], None] | None = None

    def channel(self, peer: Peer) -> Channel:
        """Make the receiver for a connection of `peer`."""
        if self.on_peer is not None:
            self.on_peer(peer)
        return Channel(self, peer)

    def link_of(self, peer: Peer, token: bytes) -> Channel | None:
        """Find the channel of the link that a further connection of `peer` belongs to, by the link's token."""
        token = token[:TOKEN_SIZE]
        return next((c for c in self.channels if c.token == token and c.peer == peer), None)

    def method(self, peer: Peer, name: str) -> Method:
        """Find a method that this peer may call.

        Raises: InvalidCall, AuthenticationError.
        """
        method = self.table.find(name)
        if self.authorize is not None:
            self.authorize(peer, method.name)
        return method

    async def invoke(
        self,
        peer: Peer,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        timeout: float | None = None,  # noqa: ASYNC109 (it travels on)
    ) -> Any:
        """Call a method for a peer that does not speak frames; a stream comes back as its iterator.

        Raises: what the method raises; InvalidCall, AuthenticationError, DeadlineExceeded.
        """
        method = self.method(peer, name)
        run = AwaitedRun(self, peer, method, args, kwargs, timeout)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                result = await run.outcome()
        except TimeoutError:
            # Not `run.remaining()`: an event loop's timer may go off up to a millisecond early.
            if not limit.expired():
                raise  # the method's own
            run.cancel()
            raise DeadlineExceeded(f"{method.name} had no outcome within {timeout:g} s") from None
        except BaseException:
            run.cancel()
            raise
        if stream_kind(result) is None:
            run.cancel()  # tasks that it left behind see that nobody waits any more
        return result

    async def close(self) -> None:
        """Close every connection and let the threads and workers end."""
        for channel in list(self.channels):
            channel.close_lanes()
        for other in list(self.others):
            other.close()
        self.pool.close()
        self.workers.close()
