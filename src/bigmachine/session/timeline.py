"""How machines came up: every phase of every machine, with its time and what was sent for it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from bigmachine.frozen import frozen

#: The last phase of a start; its span has no length.
UP = "running"
DOWN = "stopped"
#: What goes on beside the phases: a part of the program is still on its way when the machine starts or runs already.
REST = "shipping the rest"
#: Fewer bytes than this would be shown as 0.0 MB.
_TOLD = 50_000


@frozen
class Span:
    """One phase of one machine's start.

    `began` and `ended` are seconds since the epoch; `ended` is None while it lasts. `sent` is the bytes that were sent
    to its host in this phase; what another host passed on to it is not among them. Phases follow each other, but for
    `REST`, which goes on beside them.
    """

    machine: str
    phase: str
    began: float
    ended: float | None = None
    sent: int = 0

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it lasts."""
        return None if self.ended is None else max(0.0, self.ended - self.began)


class Timeline:
    """The spans of a session's machines, in the order in which they began; the last thousands of them."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._spans: dict[tuple[str, str], Span] = {}
        self._open: dict[str, tuple[str, str]] = {}
        self._beside: dict[str, tuple[str, str]] = {}
        self._entered: Counter[str] = Counter()

    def enter(self, machine: str, phase: str, now: float) -> None:
        """Note that a machine is in a phase from now on."""
        key = (machine, phase)
        self._close(self._open, machine, now)
        if phase == DOWN:
            self._close(self._beside, machine, now)
        if key in self._spans:
            return
        self._make_room()
        # News of a phase may come after the news that it is over.
        is_last = phase in (UP, DOWN) or (machine, UP) in self._spans
        self._spans[key] = Span(machine, phase, now, now if is_last else None)
        self._entered[phase] += 1
        if not is_last:
            self._open[machine] = key

    def _make_room(self) -> None:
        while len(self._spans) >= self._most:
            self._spans.pop(next(iter(self._spans)))

    def _close(self, spans: dict[str, tuple[str, str]], machine: str, now: float) -> None:
        key = spans.pop(machine, None)
        if key is not None and key in self._spans:
            self._spans[key] = replace(self._spans[key], ended=now)

    def sent(self, machine: str, size: int) -> None:
        """Note how many bytes have been sent to a machine's host in the phase that it is in."""
        key = self._open.get(machine)
        if key is not None and key in self._spans:
            self._spans[key] = replace(self._spans[key], sent=size)

    def rest(self, machine: str, size: int, now: float, *, is_over: bool) -> bool:
        """Note how many bytes of the program's rest have been sent to a machine's host; False: that is over."""
        key = (machine, REST)
        if key not in self._spans and (machine, DOWN) not in self._spans:
            self._make_room()
            self._spans[key] = Span(machine, REST, now)
            self._beside[machine] = key
        if self._beside.get(machine) != key or key not in self._spans:
            return False
        self._spans[key] = replace(self._spans[key], sent=size)
        if is_over:
            self._close(self._beside, machine, now)
        return not is_over

    def entered(self) -> dict[str, int]:
        """Tell how many machines have come to each phase so far."""
        return dict(self._entered)

    def spans(self) -> list[Span]:
        """Give all spans so far."""
        return list(self._spans.values())


def progress(phase: str, size: int) -> str:
    """Tell how far a phase is in which bytes are sent; of few nothing is told.

    Few are sent where all is there already, or comes from another host: that would read as if nothing went on.
    """
    return f"{phase} {size / 1e6:.1f} MB" if size >= _TOLD else phase


def as_text(spans: Iterable[Span]) -> str:
    """Write spans as a table, a line each, times since the first."""
    listed = list(spans)
    if not listed:
        return "no machine was started"
    start = min(span.began for span in listed)
    lines = [f"{'machine':<14} {'phase':<24} {'at s':>8} {'took s':>8} {'sent':>10}"]
    for span in listed:
        took = "" if span.seconds is None else f"{span.seconds:.3f}"
        sent = f"{span.sent:,}" if span.sent else ""
        lines.append(f"{span.machine:<14} {span.phase:<24} {span.began - start:>8.3f} {took:>8} {sent:>10}")
    return "\n".join(lines)


__all__ = ["DOWN", "REST", "UP", "Span", "Timeline", "as_text", "progress"]
