"""Decide who has been silent too long: machines whose lease ran out, and an agent that nobody needs any more.

Time comes in as an argument, in seconds of any clock that only grows. The rules (DESIGN.md, the table of clocks):

- A machine lives for `lease` seconds after it was opened or last renewed. An expired lease is reported once.
- An agent that nobody ever called ends `first_contact` seconds after its start.
- While a computer is suspended, no clock here goes on. When it wakes up, the driver, if it was on another one, may have
  given its machines up long ago. So a lease that would have run out meanwhile is shortened to `WAKING` seconds: a
  driver that is still there renews it at once.
- While the agent itself does not come to run, as on a crowded host, it hears nobody: that time is no lease's.
- An agent without machines ends when the driver has not called for a lease. While the driver keeps its stream of
  events open that is no sign of death (it may just have nothing to do), as long as something comes from it: the pings
  of its connection do. A driver that is cut off, while it sends the program for instance, sends none. Where a lease has
  run out meanwhile, it is known to be stopped or cut off, and the agent stays only `LINGER` seconds (or a lease, if
  that is shorter), so that a driver that wakes up soon still gets to know why its machines are gone.
"""

from __future__ import annotations

from typing import Final

#: Seconds that an agent stays after the last lease ran out.
LINGER: Final = 5.0
#: Seconds that a lease which ran out while the computer was suspended still holds.
WAKING: Final = 10.0
#: A driver that listens pings every other second: with less than this, some lost packets would be its end.
_HEARD: Final = 10.0


class Leases:
    """The table of the leases on one host."""

    def __init__(self, *, lease: float, first_contact: float, now: float) -> None:
        self._lease = lease
        self._first_contact = first_contact
        self._born = now
        self._ends: dict[str, float] = {}
        self._contact: float | None = None
        self._heard = now
        self._expiry: float | None = None

    def open(self, machine_id: str, now: float) -> None:
        """Give a new machine its first lease."""
        self._ends[machine_id] = now + self._lease

    def renew(self, machine_id: str, now: float, lease: float | None = None) -> float:
        """Prolong a machine's lease to `lease` seconds from now; gives the seconds that it now has.

        Raises:
            KeyError: if the machine has none, because it stopped or its lease ran out.
        """
        if machine_id not in self._ends:
            raise KeyError(machine_id)
        granted = self._lease if lease is None else lease
        self._ends[machine_id] = now + granted
        self.contact(now)
        return granted

    def awake(self, now: float, slept: float) -> None:
        """Note that the computer was suspended for `slept` seconds, which `now` does not count."""
        for machine_id, end in self._ends.items():
            if now + slept >= end:
                self._ends[machine_id] = min(end, now + WAKING)

    def late(self, held_up: float) -> None:
        """Note that whoever looks at the leases was held up for so many seconds, in which he heard nothing either."""
        for machine_id in self._ends:
            self._ends[machine_id] += held_up

    def close(self, machine_id: str) -> None:
        """Forget a machine; harmless for one that is not there."""
        self._ends.pop(machine_id, None)

    def contact(self, now: float) -> None:
        """Note that the driver was heard."""
        self._contact = now
        self._expiry = None

    def hear(self, now: float) -> None:
        """Note that something came from the driver, be it a ping."""
        self._heard = now

    def expire(self, now: float) -> list[str]:
        """Take out, and give, the machines whose lease has run out."""
        expired = [machine_id for machine_id, end in self._ends.items() if now >= end]
        for machine_id in expired:
            del self._ends[machine_id]
        if expired:
            self._expiry = now
        return expired

    def is_abandoned(self, now: float, *, is_listening: bool, is_empty: bool) -> bool:
        """Tell whether the agent may end: nobody came, or nobody is left.

        `is_listening`: the driver's stream of events is open. `is_empty`: no machine is left, not even a dying one.
        """
        if self._contact is None:
            return now >= self._born + self._first_contact and is_empty
        if not is_empty:
            return False
        if self._expiry is not None:
            return now >= self._expiry + min(LINGER, self._lease)
        if is_listening and now < self._heard + max(_HEARD, self._lease):
            return False
        return now >= self._contact + self._lease


__all__ = ["LINGER", "WAKING", "Leases"]
