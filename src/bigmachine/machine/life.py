"""A machine's life as data: its states, its phases, and which change is allowed. Pure.

`UNSTARTED < STARTING < RUNNING < STOPPED`. A state only ever grows; a change that the table does not list raises and
tells the machine's story; after STOPPED everything is ignored, so the first cause of a stop is the one that is kept.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

_STORY = 32


class State(enum.IntEnum):
    """Where a machine is in its life [Go: machine.go]."""

    UNSTARTED = 0
    STARTING = 1
    RUNNING = 2
    STOPPED = 3

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(self.name, spec)


class Phase(enum.StrEnum):
    """What a STARTING machine is doing."""

    LAUNCHING = "launching"
    REACHING = "reaching the agent"
    SHIPPING = "shipping"
    ASSEMBLING = "assembling"
    EXECUTING = "executing"
    IMPORTING = "importing"
    INITIALISING = "initialising services"


_NEXT = {
    State.UNSTARTED: {State.STARTING, State.STOPPED},
    State.STARTING: {State.RUNNING, State.STOPPED},
    State.RUNNING: {State.STOPPED},
    State.STOPPED: set[State](),
}


class IllegalTransition(RuntimeError):
    """A change of state that the table does not list: a defect of the library."""


@dataclass(slots=True)
class Life:
    """The state of one machine, and the last changes of it as (seconds, what)."""

    machine: str
    state: State = State.UNSTARTED
    phase: Phase = Phase.LAUNCHING
    error: BaseException | None = None
    story: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=_STORY))

    def enter(self, state: State, now: float, error: BaseException | None = None) -> bool:
        """Change to `state`; False if the machine has stopped already, which is no error.

        Raises: IllegalTransition.
        """
        if self.state is State.STOPPED:
            return False
        if state not in _NEXT[self.state]:
            raise IllegalTransition(f"{self.machine}: {self.state.name} cannot become {state.name}; {self.tell()}")
        self.state = state
        self.error = error
        self.story.append((now, state.name))
        return True

    def reach(self, phase: Phase, now: float) -> bool:
        """Note a phase of STARTING; False if it comes out of turn."""
        order = list(Phase)
        if self.state is not State.STARTING or order.index(phase) <= order.index(self.phase):
            return False
        self.phase = phase
        self.story.append((now, phase.value))
        return True

    def tell(self) -> str:
        """The last changes in one line."""
        if not self.story:
            return "nothing happened yet"
        begin = self.story[0][0]
        return ", ".join(f"{what} at {at - begin:.3f} s" for at, what in self.story)
