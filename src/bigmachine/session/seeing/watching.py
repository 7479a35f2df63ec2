"""What is looked at while somebody looks: calls as they end, lines as they come, machines once a second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from bigmachine.errors import MachineStopped
from bigmachine.machine import Machine, State
from bigmachine.rpc import deadline
from bigmachine.session.seeing.asking import ask_all
from bigmachine.session.seeing.rows import Row, rounded, thinned

if TYPE_CHECKING:
    from bigmachine.agent.supervisor import Glance
    from bigmachine.rpc import MethodSnapshot
    from bigmachine.session.session import Session

#: Calls and lines that are kept; and those that are told in one second, so that a viewer far away can follow.
CALLS: Final = 2000
LINES: Final = 1000
_CALLS_AT_ONCE: Final = 250
_LINES_AT_ONCE: Final = 50
#: Characters of a line.
_LONGEST: Final = 200
#: Of all machines' last lines together, told in one second; of each at least the beginning.
_LAST_LINES: Final = 12_000
_BEGINNING: Final = 40
#: A machine that does not say within this how it is, is told as it was.
_PATIENCE: Final = 0.8
#: Machines that have stopped are shown, the last ones of them.
_STOPPED: Final = 50

Call = tuple[str, str, float, float, bool]
Line = tuple[float, str, str, str]


class Calls:
    """This process's calls as they end: machine, method, when it began (epoch), how long it took, whether it failed."""

    def __init__(self) -> None:
        self._fresh: deque[Call] = deque(maxlen=CALLS)
        self._traced: set[Machine] = set()

    def follow(self, machines: Iterable[Machine]) -> None:
        """Note the calls to these machines, and no others any more."""
        wanted = set(machines)
        for machine in self._traced - wanted:
            machine.trace_calls(None)
        for machine in wanted - self._traced:
            machine.trace_calls(partial(self._note, machine.name))
        self._traced = wanted

    def _note(self, machine: str, method: str, seconds: float, failed: bool) -> None:
        self._fresh.append((machine, method, time.time() - seconds, seconds, failed))

    def take(self) -> list[Call]:
        """Give what has come, thinned where it is too much."""
        fresh: list[Call] = []
        while self._fresh and len(fresh) < CALLS:
            fresh.append(self._fresh.popleft())
        return list(thinned(fresh, _CALLS_AT_ONCE))


class Output:
    """Lines as they come, and the last one of each machine."""

    def __init__(self) -> None:
        self._fresh: deque[Line] = deque(maxlen=_LINES_AT_ONCE)
        self._came = 0
        self.last: dict[str, str] = {}

    def note(self, machine: str, stream: str, block: str) -> None:
        """Take whole lines; on the output's thread."""
        lines = block[-_LINES_AT_ONCE * _LONGEST :].splitlines()[-_LINES_AT_ONCE:]
        self._came += block.count("\n")
        now = round(time.time(), 1)
        for line in lines:
            self._fresh.append((now, machine, stream, _short(line)))
        if lines:
            self.last[machine] = _short(lines[-1])

    def began_with(self, machine: str, lines: Iterable[str]) -> None:
        """Take what a machine wrote before anybody looked."""
        for line in lines:
            self.last.setdefault(machine, _short(line))
            self.last[machine] = _short(line)

    def last_of(self, machine: str, among: int) -> str:
        """Give a machine's last line, cut so that those `among` many machines can all be told every second."""
        return _short(self.last.get(machine, ""), max(_BEGINNING, _LAST_LINES // max(1, among)))

    def take(self) -> tuple[list[Line], int]:
        """Give the lines that have come, and how many others there were."""
        came, self._came = self._came, 0
        fresh: list[Line] = []
        while self._fresh and len(fresh) < _LINES_AT_ONCE:
            fresh.append(self._fresh.popleft())
        return fresh, max(0, came - len(fresh))


def _short(line: str, longest: int = _LONGEST) -> str:
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


class Looked:
    """What was seen of one machine the last time, for what is told in differences."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._calls = 0
        self._total = 0.0
        self._failed = 0
        self._looked = 0.0
        self._cpu: tuple[float, float] | None = None
        self._seen: Row = {}

    def row(self, glance: Glance | None, now: float, line: str) -> Row:
        """Say how it is now; what it did not tell this time stays as it was."""
        machine = self.machine
        if glance is not None:
            self._seen["mem"] = round(glance.rss / 2**20, 1)
            self._seen["limit"] = round(glance.limit / 2**20)
            if self._cpu is not None and now > self._cpu[0]:
                self._seen["cpu"] = round(100 * max(0.0, glance.cpu_s - self._cpu[1]) / (now - self._cpu[0]))
            self._cpu = (now, glance.cpu_s)
        row: Row = {
            "name": machine.name,
            "address": machine.address,
            "host": machine.hostname,
            "owned": machine.owned,
            "state": machine.state.name,
            **self._seen,
            **self._rates(now),
        }
        if machine.state is State.STARTING:
            row["phase"] = machine.phase.value
        if replies := machine.keepalive_reply_times():
            row["alive"] = rounded(1e3 * replies[0])
        if (lease := machine.next_keepalive) is not None:
            row["lease"] = round(time.time() + lease)
        if machine.state is State.STOPPED:
            row["error"] = _why(machine)
            row["cpu"] = row["rate"] = 0
        if line:
            row["line"] = line
        return row

    def _rates(self, now: float) -> Row:
        snapshots: Iterable[MethodSnapshot] = self.machine.call_statistics().values()
        calls = total = failed = 0.0
        for each in snapshots:
            calls, total, failed = calls + each.calls, total + each.total, failed + each.errors
        done, took, since = calls - self._calls, total - self._total, now - self._looked
        is_first = not self._looked
        self._calls, self._total, self._looked = int(calls), total, now
        told: Row = {"failed": int(failed)}
        if not is_first and since > 0:
            told["rate"] = rounded(done / since)
            told["took"] = rounded(1e3 * took / done) if done > 0 else None
        return told


def _why(machine: Machine) -> str:
    error = machine.error
    if isinstance(error, MachineStopped):
        return _short(error.certificate.describe().removeprefix(f"machine {machine.name} stopped "))
    return str(error or "")


class Machines:
    """The machines that there are, and the last ones that have stopped since somebody looks."""

    def __init__(self, list_all: Callable[[], list[Machine]]) -> None:
        self._list_all = list_all
        self._known: dict[str, Looked] = {}

    def all(self) -> list[Looked]:
        """Give them, in the order in which they came."""
        for machine in self._list_all():
            if machine.machine_id not in self._known:
                self._known[machine.machine_id] = Looked(machine)
        gone = [key for key, looked in self._known.items() if looked.machine.state is State.STOPPED]
        for key in gone[:-_STOPPED]:
            del self._known[key]
        return list(self._known.values())


class Table:
    """The machines of a session as somebody sees them who looks again and again. To be ended."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._machines = Machines(session.machines)
        self.output = Output()
        self._unlisten = session._display.listen(self.output.note)

    def begin(self) -> dict[str, list[str]]:
        """Ask what machines wrote before, and give the last lines of each, by name."""
        told: dict[str, list[str]] = {}
        for looked, lines in self._asked("Supervisor.last_lines"):
            assert isinstance(lines, list)
            self.output.began_with(looked.machine.name, lines)
            told[looked.machine.name] = [str(line) for line in lines]
        return told

    def end(self) -> None:
        """Leave no trace."""
        self._unlisten()

    def machines(self) -> list[Machine]:
        """Give the machines, in the order in which they came, the last ones that have stopped among them."""
        return [looked.machine for looked in self._machines.all()]

    def rows(self) -> dict[str, Row]:
        """Ask all machines how they are, in less than a second; give a row for each, by its id.

        Raises:
            BigmachineError: if the session has ended.
        """
        glances: dict[Looked, Glance] = dict(self._asked("Supervisor.glance"))  # type: ignore[arg-type]  # what it gives
        all_looked = self._machines.all()
        now = time.monotonic()
        return {
            looked.machine.machine_id: looked.row(
                glances.get(looked), now, self.output.last_of(looked.machine.name, len(all_looked))
            )
            for looked in all_looked
        }

    def _asked(self, method: str) -> list[tuple[Looked, object]]:
        async def ask(machine: Machine) -> object:
            with deadline(_PATIENCE):
                return await machine.submit(method)

        known = {looked.machine: looked for looked in self._machines.all()}
        running = [machine for machine in known if machine.state is State.RUNNING]
        answers = ask_all(self._session._reactor, running, ask, _PATIENCE)
        return [(known[answer.machine], answer.value) for answer in answers if answer.error is None]
