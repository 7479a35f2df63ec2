"""What calls cost, counted [Go: rpc/stats.go]: per method, on either side. Pure.

A latency goes into one of 40 buckets, each twice as wide as the one before, beginning with 1 us: enough to tell a
quantile within a factor of two. Counting a call costs well below a microsecond.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from bigmachine.frozen import frozen
from bigmachine.rpc.names import shown

BUCKETS = 40
_FOLD = 256
#: Where the buckets end; the last one has no end (before it: more than three days).
_ENDS = [2**i / 1e6 for i in range(BUCKETS - 1)]

#: Is told of each call that is over: its method, how many seconds it took, and whether it failed. Must be quick.
Tap = Callable[[str, float, bool], object]


class MethodStats:
    """The calls of one method. Times in seconds; bytes are those of calls and results, not what their streams carry.

    The calling side counts a call that ended by its deadline, was given up or lost as one with an error.

    A call is noted as it is, in a list; the list is added up some hundred calls at a time, which costs an eighth of
    adding them up one by one. Noting is one operation, so any thread may count; `lock` is held while adding up.
    """

    __slots__ = (
        "_bytes",
        "_lock",
        "_recent",
        "_times",
        "buckets",
        "bytes_in",
        "bytes_out",
        "calls",
        "errors",
        "longest",
        "note",
        "total",
    )

    def __init__(self, lock: AbstractContextManager[object] | None = None) -> None:
        self._lock = lock or nullcontext()
        self.calls = 0
        self.errors = 0
        self.total = 0.0
        self.longest = 0.0
        self.bytes_in = 0
        self.bytes_out = 0
        self.buckets = [0] * BUCKETS
        self._recent: list[tuple[float, bool, int, int]] = []
        # Of calls that went well and come many at a time: what each took, and the bytes of several.
        self._times: list[float] = []
        self._bytes: list[tuple[int, int]] = []
        #: Counts such a call by its seconds; the bytes of all that were noted follow with `settle`.
        self.note: Callable[[float], object] = self._times.append

    def count(self, seconds: float, failed: bool, bytes_in: int, bytes_out: int) -> None:
        """Count one call that is over: the bytes that came, and that went."""
        recent = self._recent
        recent.append((seconds, failed, bytes_in, bytes_out))
        if len(recent) >= _FOLD:
            self.fold()

    def settle(self, bytes_in: int, bytes_out: int) -> None:
        """Count the bytes of calls that were noted."""
        self._bytes.append((bytes_in, bytes_out))
        if len(self._times) >= _FOLD:
            self.fold()

    def fold(self) -> None:
        """Add up what was noted."""
        with self._lock:
            self._fold()

    def _fold(self) -> None:
        # Always the same list, and what others note meanwhile stays in it.
        times, sizes, recent = self._times[:], self._bytes[:], self._recent[:]
        del self._times[: len(times)], self._bytes[: len(sizes)], self._recent[: len(recent)]
        if recent:
            alone, failed, came, went = zip(*recent, strict=True)
            times += alone
            self.errors += sum(failed)
            sizes.append((sum(came), sum(went)))
        for bytes_in, bytes_out in sizes:
            self.bytes_in += bytes_in
            self.bytes_out += bytes_out
        if not times:
            return
        self.calls += len(times)
        self.total += sum(times)
        # A step for each bucket, not for each call: that would cost as much as sending the calls.
        ordered = sorted(times)
        self.longest = max(self.longest, ordered[-1])
        at = 0
        while at < len(ordered):
            index = bisect_right(_ENDS, ordered[at])
            after = bisect_left(ordered, _ENDS[index], at) if index < len(_ENDS) else len(ordered)
            self.buckets[index] += after - at
            at = after

    def quantile(self, share: float) -> float:
        """Return a latency in seconds that `share` of the calls did not exceed, rounded up to its bucket's end."""
        self.fold()
        wanted = share * self.calls
        seen = 0
        for index, count in enumerate(self.buckets):
            seen += count
            if count and seen >= wanted:
                return float(2**index) / 1e6
        return 0.0

    def snapshot(self) -> MethodSnapshot:
        """Return the numbers as they are now."""
        self.fold()
        return MethodSnapshot(
            self.calls,
            self.errors,
            self.total,
            self.longest,
            self.bytes_in,
            self.bytes_out,
            tuple(self.buckets),
        )


@frozen
class MethodSnapshot:
    """The calls of one method until a moment: numbers, seconds, bytes (without those of streams), and the histogram.

    `histogram[i]` counts the calls that took less than 2**i microseconds and are not in a bucket before.
    """

    calls: int
    errors: int
    total: float
    longest: float
    bytes_in: int
    bytes_out: int
    histogram: tuple[int, ...]

    def with_(self, other: MethodSnapshot) -> MethodSnapshot:
        """Return both together."""
        return MethodSnapshot(
            self.calls + other.calls,
            self.errors + other.errors,
            self.total + other.total,
            max(self.longest, other.longest),
            self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out,
            tuple(map(operator.add, self.histogram, other.histogram)),
        )


class _Traced(MethodStats):
    """Counts into the numbers that it stands in front of, and tells of each call."""

    __slots__ = ("counted", "method", "tap")

    def __init__(self, counted: MethodStats, method: str, tap: Tap) -> None:
        super().__init__()
        self.counted = counted
        self.method = method
        self.tap = tap
        self.note = self._note

    def _note(self, seconds: float) -> None:
        self.counted.note(seconds)
        self.tap(self.method, seconds, False)

    def settle(self, bytes_in: int, bytes_out: int) -> None:
        self.counted.settle(bytes_in, bytes_out)

    def count(self, seconds: float, failed: bool, bytes_in: int, bytes_out: int) -> None:
        self.counted.count(seconds, failed, bytes_in, bytes_out)
        self.tap(self.method, seconds, failed)

    def quantile(self, share: float) -> float:
        return self.counted.quantile(share)

    def snapshot(self) -> MethodSnapshot:
        return self.counted.snapshot()


class Statistics:
    """The methods of one side, by name."""

    __slots__ = ("_lock", "_tap", "_told", "methods")

    def __init__(self, lock: AbstractContextManager[object] | None = None) -> None:
        """`lock`: where several threads count, for all methods together."""
        self._lock = lock
        self.methods: dict[str, MethodStats] = {}
        self._tap: Tap | None = None
        self._told: Callable[[str], str] = shown

    def name_by(self, told: Callable[[str], str]) -> None:
        """Have `told` say under which name a method's numbers are told, by its wire name."""
        self._told = told

    def trace(self, tap: Tap | None) -> None:
        """Have `tap` told of each call that is over from now on; None ends that. It costs nothing while there is none.

        What counts a call meanwhile may do so the old way once more; no call is lost to the numbers.
        """
        self._tap = tap
        for method, stats in list(self.methods.items()):
            counted = stats.counted if isinstance(stats, _Traced) else stats
            self.methods[method] = counted if tap is None else _Traced(counted, self._told(method), tap)

    def of(self, method: str) -> MethodStats:
        """Return a method's numbers, to be counted into.

        A Supervisor's methods are counted together for all machines: there is no bound to those that come and go.
        """
        if method.startswith("Supervisor@"):
            method = f"Supervisor.{method.rpartition('.')[2]}"
        found = self.methods.get(method)
        if found is None:
            tap = self._tap
            made = MethodStats(self._lock)
            if tap is not None:
                made = _Traced(made, self._told(method), tap)
            found = self.methods.setdefault(method, made)
        return found

    def snapshot(self) -> dict[str, MethodSnapshot]:
        """Return every method's numbers as they are now, under the names that people write."""
        told: dict[str, MethodSnapshot] = {}
        for wire_name, stats in list(self.methods.items()):
            name, numbers = self._told(wire_name), stats.snapshot()
            told[name] = numbers if name not in told else told[name].with_(numbers)
        return told


__all__ = ["BUCKETS", "MethodSnapshot", "MethodStats", "Statistics", "Tap"]
