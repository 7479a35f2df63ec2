"""Tell a hung machine from a busy one.

A program's I/O thread answers a probe every few seconds. Silence alone proves nothing: a C extension may hold the GIL
for a minute and is doing its work. A machine is hung when it has been silent *and* its process has not run for that
long: it used no CPU time and was not even waiting for a CPU. (As good as none: a thread that waits for the GIL looks
after it every 5 ms, which takes up to a hundredth of a CPU, so from `IDLE` on it counts.) That covers a stopped process
(state T), one stuck in the kernel (D) and an I/O thread that waits for a lock nobody will open; it spares a process
that is being traced (state t), because a person with a debugger or a profiler is holding it.

One more is spared for a while: a process that sleeps in code in C, as on a socket or a file, and holds the GIL all the
time. From outside that looks like an I/O thread that waits for a lock, and the library that does it is at fault; but it
is at work, and not stuck. So when a process that is neither stopped nor in the kernel's hands has been silent, the GIL
is looked at (`pyspy`), and while somebody holds it, the machine has `BLOCKED` times the patience (`excuse`).

While the program is still coming up, nothing answers probes and waiting is normal (an import from a slow disk); then
only a process that stands stopped counts.
"""

from __future__ import annotations

from typing import Final

from bigmachine.frozen import frozen

#: The part of a CPU from which on a process runs.
IDLE: Final = 0.02
#: What a process in C that holds the GIL and uses no CPU has, in patiences: two minutes by default.
BLOCKED: Final = 12


@frozen
class Sample:
    """What the host says of a process: its state's letter as in proc(5), and its CPU time in hundredths of a second."""

    state: str
    cpu: int


class Vitals:
    """The signs of life of one machine. `patience` is in seconds."""

    def __init__(self, patience: float, now: float) -> None:
        self._patience = patience
        self._alive = now
        self._mark = (now, -100)  # a time, and the CPU time at that time; all of it is news at the first look
        self._excused = now
        self._state = ""
        self._serves = False

    def serves(self, now: float) -> None:
        """Note that the program answers probes from now on."""
        self._serves = True
        self._alive = now

    def answered(self, now: float) -> None:
        """Note that it answered one."""
        self._alive = now

    def is_hung(self, now: float, sample: Sample | None) -> bool:
        """Take a look at the process into account; None where the host tells nothing of it."""
        if sample is None or self._is_running(now, sample):
            self._alive = now
            self._mark = (now, self._mark[1] if sample is None else sample.cpu)
        if sample is not None:
            self._state = sample.state
        return now - max(self._alive, self._excused) >= self._patience

    def may_be_excused(self, now: float) -> bool:
        """Tell whether it is worth a look who holds the GIL: it sleeps, and has not done so for too long."""
        return self._serves and self._state not in "TD" and self.silence(now) < BLOCKED * self._patience

    def excuse(self, now: float) -> None:
        """Note that somebody holds the GIL: it has one more patience."""
        self._excused = now

    def silence(self, now: float) -> float:
        """Seconds since the last sign of life."""
        return now - self._alive

    def _is_running(self, now: float, sample: Sample) -> bool:
        if sample.state == "T":
            return False
        since, cpu = self._mark
        # One more: a hundredth may have been nearly full already.
        has_run = sample.cpu - cpu > 1 + 100 * IDLE * (now - since)
        # Twice, for one who waits for the GIL is caught now and then while he looks after it.
        waits_for_cpu = sample.state == "R" == self._state
        return not self._serves or sample.state == "t" or waits_for_cpu or has_run


__all__ = ["BLOCKED", "IDLE", "Sample", "Vitals"]
