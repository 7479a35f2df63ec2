"""A link's connections: made when there is something to say, replaced when they go mute, lost.

The main connection is dialled when something waits for it; the bulk lane when something large was sent or came. While
the link waits for an answer a heartbeat watches: it has the link doubt a silent connection, so that calls wait rather
than be lost with it, and dials anew beside it. The doubt ends when the peer is heard and takes what is sent, too. What
waits, and what a loss means for what was sent, is the link's own (`link`): it is told by the methods that begin with
`_when`. All of it is on the reactor's thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
from collections.abc import Callable
from typing import Any, Protocol

from bigmachine.errors import BigmachineError, NetworkError
from bigmachine.rpc.codec import Codec
from bigmachine.rpc.connection import Connection, Receiver
from bigmachine.rpc.heartbeat import Heartbeat, bytes_taken, is_held_up
from bigmachine.rpc.lanes import BULK, MAIN, TOKEN_SIZE, Lanes
from bigmachine.rpc.losses import translate_loss
from bigmachine.rpc.reactor import Reactor
from bigmachine.rpc.wire import HELLO, VERSION, Frame, small_frame

_log = logging.getLogger("bigmachine.rpc")


class Dialer(Protocol):
    """Knows how to reach one peer and how to make sure that it is the right one."""

    async def dial(self, reactor: Reactor, receiver: Receiver) -> Connection:
        """Connect.

        Raises: NetworkError, AuthenticationError.
        """


class Connector(Lanes):
    """Dials one peer, and keeps what was dialled."""

    def __init__(self, reactor: Reactor, dialer: Dialer, codec: Codec, name: str) -> None:
        super().__init__()
        self.reactor = reactor
        self.codec = codec
        self.name = name
        self._dialer = dialer
        self._token = b""  # of the main connection, for its bulk lane
        #: The link that this one is beside: streams come by that.
        self.far: Connector | None = None
        self._heartbeat = Heartbeat(self)
        self._dialling: asyncio.Task[Any] | None = None
        self._dialling_bulk: asyncio.Task[Any] | None = None
        self._closed: BaseException | None = None
        #: Whether the connection may be mute: then calls wait for it to speak, or for the next one.
        self._is_doubted = False
        #: Whether a peer that is in doubt was heard since the last beat.
        self._is_heard = False
        #: Called when a connection is up, and when it is lost.
        self.on_up: Callable[[], None] | None = None
        self.on_down: Callable[[BigmachineError], None] | None = None

    def __str__(self) -> str:
        return self.name

    # what the link has to say about it

    def frames(self, connection: Connection, frames: list[Frame]) -> None:
        """Take frames from the peer."""
        raise NotImplementedError  # the link's own

    def is_waiting(self) -> bool:
        """Tell whether something is to come from the peer."""
        raise NotImplementedError  # the link's own

    def _has_unsent(self) -> bool:
        raise NotImplementedError  # the link's own

    def _when_changed(self) -> None:
        """The connection is up, or is doubted, or is believed again."""
        raise NotImplementedError  # the link's own

    def _when_bulk_is_settled(self) -> None:
        """There is a bulk lane, or there will be none for now."""
        raise NotImplementedError  # the link's own

    def _when_down(self, cause: BigmachineError) -> None:
        """The connection is lost, with what was sent over it."""
        raise NotImplementedError  # the link's own

    async def _when_not_dialled(self, cause: BigmachineError) -> None:
        """No connection could be made."""
        raise NotImplementedError  # the link's own

    # connections

    async def connect(self) -> None:
        """Connect now, if it is not connected.

        Raises: NetworkError, AuthenticationError.
        """
        if self.main is None and self._closed is None:
            self._up(await self._dialer.dial(self.reactor, self))

    def drop(self) -> None:
        """Let both connections go at once, without the farewell that TLS has."""
        for connection in (self.main, self.bulk):
            if connection is not None:
                connection.abort()

    @property
    def heard_at(self) -> float:
        """When the peer was last heard, by `time.monotonic`, to a second; known while something is waited for."""
        return self._heartbeat.heard_at

    def bytes_heard(self) -> int:
        """Return how much has come, by both lanes."""
        return sum(lane.bytes_in for lane in (self.main, self.bulk) if lane is not None)

    def bytes_taken(self) -> int:
        """Return how much the peer has taken by the lanes that have more for it; 0 if none has."""
        return sum(bytes_taken(lane) for lane in (self.main, self.bulk) if lane is not None)

    def is_held_up(self) -> bool:
        """Tell whether the peer does not take what is sent, by either lane."""
        return any(is_held_up(lane) for lane in (self.main, self.bulk) if lane is not None)

    def doubt(self, is_heard: bool = False) -> None:
        """Send no more calls by a connection that seems to be mute: what was sent is lost if it is.

        `is_heard`: the peer speaks, but does not take what is sent.
        """
        self._is_heard = is_heard
        if not self._is_doubted:
            self._is_doubted = True
            self._when_changed()

    def _heard_in_doubt(self) -> None:
        """The peer speaks again: take it at its word if it hears, too."""
        if not self.is_held_up():
            self.believe()
        elif not self._is_heard:
            self._is_heard = True
            # It can be reached again, and the attempt under way may wait for long to send its first packet once more.
            self._heartbeat.dial(is_anew=True)

    def _hurry(self) -> None:
        """A call waits because of the doubt: a peer that is heard can be dialled at once."""
        if self._is_heard:
            self._heartbeat.dial()

    def believe(self) -> None:
        """Send what has waited: the connection is not mute after all."""
        if self._is_doubted:
            self._is_doubted = False
            self._when_changed()

    async def replace(self) -> bool:
        """Dial anew beside a connection that is mute, and give that one up if it still is."""
        mute, heard = self.main, self.bytes_heard()
        if self._is_heard and not self._has_unsent():
            return False
        try:
            connection = await self._dialer.dial(self.reactor, self)
        except BigmachineError as exc:
            _log.debug("no other connection to %s: %s", self.name, exc)
            return False
        is_heard = self._is_heard or self.bytes_heard() != heard
        is_well = is_heard and not (self._has_unsent() and self.is_held_up())
        if self._closed is not None or self.main is not mute or mute is None or is_well:
            connection.close()
            return False
        _log.info("the connection to %s fell silent; a new one took its place", self.name)
        self._down(NetworkError(f"the connection to {self.name} fell silent, and was replaced"))
        mute.abort()
        self._up(connection)
        return True

    async def _dial(self) -> None:
        try:
            if self.main is None:
                self._up(await self._dialer.dial(self.reactor, self))
        except BigmachineError as exc:
            await self._when_not_dialled(exc)
        except Exception as exc:  # noqa: BLE001 (the task's edge: whoever waits must hear of it)
            _log.exception("dialling %s failed", self.name)
            await self._when_not_dialled(NetworkError(f"dialling {self.name} failed: {exc}"))
        finally:
            self._dialling = None
            if (
                self._has_unsent() and self.main is None and self._closed is None
            ):  # they came while the failure was told
                self._begin_dialling()

    def _begin_dialling(self) -> None:
        if self._dialling is None:
            self._dialling = self.reactor.spawn(self._dial(), f"dial {self.name}")

    def _up(self, connection: Connection) -> None:
        if self._closed is not None:
            connection.close()
            return
        if not connection.is_open:  # refused right after the handshake, as TLS 1.3 has it
            cause = translate_loss(connection.error, self.name)
            self.reactor.spawn(self._when_not_dialled(cause), f"judge {self.name}")
            return
        self.main = connection
        # A new one each time: the peer may not have noticed yet that the last connection is over, and the bulk lane
        # must not come to that one.
        self._token = os.urandom(TOKEN_SIZE) + (b"" if self.far is None else self.far._token)
        connection.send(self.greeting(MAIN))
        self._when_changed()
        if self.on_up is not None:
            self.on_up()

    def greet_again(self) -> None:
        """Tell the peer that the link that this one is beside has another connection."""
        if self.main is not None and self.far is not None and self._token[TOKEN_SIZE:] != self.far._token:
            self._token = self._token[:TOKEN_SIZE] + self.far._token
            self.main.send(self.greeting(MAIN))

    def greeting(self, lane: int) -> bytes:
        """Encode what is sent first on a connection: which link it belongs to, and as what."""
        return small_frame(HELLO, 0, 0, pickle.dumps((VERSION, self._token, lane), 5))

    def _open_bulk(self) -> None:
        if self.bulk is None and self._dialling_bulk is None and self._closed is None:
            self._dialling_bulk = self.reactor.spawn(self._dial_bulk(), f"dial {self.name} for bulk")

    async def _dial_bulk(self) -> None:
        try:
            connection = await self._dialer.dial(self.reactor, self)
        except BigmachineError as exc:
            _log.debug("no bulk lane to %s: %s", self.name, exc)
        except Exception:  # noqa: BLE001 (the task's edge: what waits for it goes the other way)
            _log.exception("dialling %s for bulk failed", self.name)
        else:
            if self.main is None or self._closed is not None:
                connection.close()
            else:
                self.bulk = connection
                connection.send(self.greeting(BULK))
        self._dialling_bulk = None
        self._when_bulk_is_settled()

    def lost(self, connection: Connection, error: Exception | None) -> None:
        """A connection has ended."""
        if connection is self.bulk:
            self.bulk = None
            if self.main is not None:
                self.main.abort(error)  # frames of its calls may be lost
        elif connection is self.main:
            self._down(error)

    def _down(self, error: Exception | None) -> None:
        self.main = None
        self._is_doubted = False
        bulk, self.bulk = self.bulk, None
        if bulk is not None:
            bulk.abort(error)
        if self._dialling_bulk is not None:
            self._dialling_bulk.cancel()
            self._dialling_bulk = None
        cause = translate_loss(error, self.name)
        self._when_down(cause)
        if self.on_down is not None and self._closed is None:
            self.on_down(cause)
        if self._has_unsent() and self._closed is None:
            self._begin_dialling()
