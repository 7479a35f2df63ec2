"""The called side of a link's connection for threads that wait (see `direct`).

It is a channel with one connection; its owner, the link's channel, has the lanes by which streams go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import InvalidCall
from bigmachine.rpc.channel import Channel
from bigmachine.rpc.names import shown
from bigmachine.rpc.streams.outgoing import Outgoing
from bigmachine.rpc.wire import KEPT, RESULT, STREAMED

if TYPE_CHECKING:
    from bigmachine.rpc.connection import Connection
    from bigmachine.rpc.runs import FramedRun

#: The calls that were given up last, so many, are remembered: the word of it may overtake the call, which comes by
#: another connection.
_REMEMBERED: Final = 16


class DirectChannel(Channel):
    """One peer's calls that are read by the threads that wait for them."""

    def __init__(self, owner: Channel, connection: Connection) -> None:
        super().__init__(owner.server, owner.peer)
        self._owner = owner
        self.main = connection
        self._given_up: tuple[int, ...] = ()  # replaced by the loop, read by a thread
        owner.directs[connection] = self

    def stream(self, run: FramedRun, source: object, kind: str) -> None:
        """Keep a stream until its reader is there, who is told of it here."""
        run.args, run.kwargs = (), {}
        self.over(run, False, 0)
        wanted = self.runs.pop(run.ident, None) is not None and self.main is not None and self._owner.main is not None
        home = self._owner.home() if wanted else None
        stream = Outgoing(home or self._owner, run.ident, source, kind, run.method.name, info=run, done=run.leave)
        if home is not None:
            home.parked[run.ident] = stream
            self.transmit(self.codec.result(RESULT, STREAMED | KEPT, run.ident, (kind, home.token), run.method.name))
        elif wanted:
            self._owner.parked[run.ident] = stream
            self.transmit(self.codec.result(RESULT, STREAMED, run.ident, kind, run.method.name))
        else:
            stream.start()
            stream.close()

    def _cancel(self, ident: int) -> None:
        """Tell a call that nobody wants it; its outcome is sent all the same, for after that comes the next one."""
        self._given_up = (*self._given_up[1 - _REMEMBERED :], ident)  # before it is looked for, see `has_come`
        if (early := self._early.pop(ident, None)) is not None:
            self._refuse(ident, InvalidCall(f"{shown(early[1][0])} was given up before the machine had its services"))
        elif (run := self.runs.get(ident)) is not None:
            run.cancel()

    def _call(self, flags: int, ident: int, *rest: Any) -> None:
        super()._call(flags, ident, *rest)
        self.has_come(ident)

    def has_come(self, ident: int) -> None:
        """Tell a call that stands among the runs by now if it was given up before it came."""
        if ident in self._given_up and (run := self.runs.get(ident)) is not None:
            run.cancel()

    def lost(self, connection: Connection, error: Exception | None) -> None:
        self._owner.directs.pop(connection, None)
        super().lost(connection, error)
