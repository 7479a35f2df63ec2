"""What happens to machines, in order, kept until the driver has said that it knows.

Every event has a number. The driver reads with a cursor, the number of the last event it has seen, and may read again
from an older one after its connection broke: an event is dropped only when it is acknowledged. So that a silent
driver cannot fill the agent's memory, the log says when it is full; the agent then stops reading the machines' pipes,
and a machine that writes more waits, as it would for any slow reader. The log itself never refuses: changes of phase
and the last lines of a dead machine are few, and they are what the driver needs most.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal

from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from bigmachine.agent.conversations import Halt
    from bigmachine.errors import DeathCertificate

#: "log" carries records of `logging`, see `records`.
StreamName = Literal["stdout", "stderr", "log"]


@frozen
class Output:
    """A machine wrote `data`: its bytes, uncut and unchanged, in pieces that need not end with a line."""

    seq: int
    machine_id: str
    at: float
    stream: StreamName
    data: bytes


@frozen
class PhaseChanged:
    """A machine got further on its way up."""

    seq: int
    machine_id: str
    at: float
    phase: str


@frozen
class Stopped:
    """A machine is gone; all it wrote has come before this.

    `text` is the traceback (or another long explanation), `exception` the pickled exception if it could be pickled.
    """

    seq: int
    machine_id: str
    at: float
    certificate: DeathCertificate
    exception: bytes | None
    text: str


@frozen
class MemoryShort:
    """Memory that a machine takes the most of is nearly used up.

    `pool` names it; `used` and `limit` are its bytes, `resident` those of the machine. `pressure`: the percentage of
    the last ten seconds in which everything waited for memory, if the kernel tells.
    """

    seq: int
    machine_id: str
    at: float
    pool: str
    used: int
    limit: int
    resident: int
    pressure: float | None


@frozen
class Dumped:
    """What a machine that is short of memory holds, as files to be kept: pairs of a name and what is in it."""

    seq: int
    machine_id: str
    at: float
    files: tuple[tuple[str, bytes], ...]


@frozen
class Notice:
    """What a provider says before it takes a host back: when (seconds since the epoch), and in which words."""

    end: float
    detail: str


@frozen
class Noticed:
    """The provider will take a machine's host back."""

    seq: int
    machine_id: str
    at: float
    notice: Notice


@frozen
class Halted:
    """A machine's program waits in `breakpoint()`."""

    seq: int
    machine_id: str
    at: float
    halt: Halt


Event = Output | PhaseChanged | Stopped | MemoryShort | Dumped | Noticed | Halted

#: What an event costs beside its data, roughly: it keeps a flood of tiny writes within the bound too.
_OVERHEAD: Final = 256


class EventLog:
    """The events that are not acknowledged yet. `limit` is in bytes."""

    def __init__(self, limit: int = 8 << 20) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._size = 0
        self._last = 0

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._last

    @property
    def is_full(self) -> bool:
        """Whether no more output should be taken in until some is acknowledged."""
        return self._size >= self._limit

    @property
    def is_settled(self) -> bool:
        """Whether the driver has acknowledged everything."""
        return not self._events

    def output(self, machine_id: str, at: float, stream: StreamName, data: bytes) -> None:
        """Note what a machine wrote."""
        self._append(Output(self._next(), machine_id, at, stream, data))

    def phase(self, machine_id: str, at: float, phase: str) -> None:
        """Note that a machine entered a phase."""
        self._append(PhaseChanged(self._next(), machine_id, at, phase))

    def stopped(self, certificate: DeathCertificate, at: float, exception: bytes | None = None, text: str = "") -> None:
        """Note a machine's end."""
        self._append(Stopped(self._next(), certificate.machine, at, certificate, exception, text))

    def memory_short(
        self, machine_id: str, at: float, pool: str, used: int, limit: int, resident: int, pressure: float | None
    ) -> None:
        """Note that memory is nearly used up."""
        self._append(MemoryShort(self._next(), machine_id, at, pool, used, limit, resident, pressure))

    def dumped(self, machine_id: str, at: float, files: tuple[tuple[str, bytes], ...]) -> None:
        """Note what a machine holds."""
        self._append(Dumped(self._next(), machine_id, at, files))

    def noticed(self, machine_id: str, at: float, notice: Notice) -> None:
        """Note that a machine's host will be taken back."""
        self._append(Noticed(self._next(), machine_id, at, notice))

    def halted(self, machine_id: str, at: float, halt: Halt) -> None:
        """Note that a machine's program waits in `breakpoint()`."""
        self._append(Halted(self._next(), machine_id, at, halt))

    def after(self, cursor: int, most: int = 64) -> list[Event]:
        """Give up to `most` events after `cursor`, or the oldest there are if some of these are acknowledged."""
        first = self._last - len(self._events) + 1
        return list(islice(self._events, max(0, cursor + 1 - first), max(0, cursor + 1 - first) + most))

    def acknowledge(self, cursor: int) -> None:
        """Drop the events up to and with `cursor`."""
        while self._events and self._events[0].seq <= cursor:
            self._size -= _weight(self._events.popleft())

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _append(self, event: Event) -> None:
        self._events.append(event)
        self._size += _weight(event)


def _weight(event: Event) -> int:
    if isinstance(event, Dumped):
        return _OVERHEAD + sum(len(data) for _, data in event.files)
    return _OVERHEAD + (len(event.data) if isinstance(event, Output) else 0)


__all__ = [
    "Dumped",
    "Event",
    "EventLog",
    "Halted",
    "MemoryShort",
    "Notice",
    "Noticed",
    "Output",
    "PhaseChanged",
    "Stopped",
    "StreamName",
]
