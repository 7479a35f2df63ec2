"""The local System starts one agent, says why it cannot, and leaves none behind (what runs on it: tests/cluster)."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bigmachine import Keepalive, Launched
from bigmachine.agent import spawned
from bigmachine.agent.spawned import SpawnedAgent
from bigmachine.errors import InvalidCall, ProvisionError
from bigmachine.rpc import Reactor
from bigmachine.system import Ticket
from bigmachine.systems.local import LocalSystem
from bigmachine.trust import Authority
from tests.unit.inside import eventually

#: Agents in a few words. All of them note their process in the file that is their first argument.
GOOD = "print('{\"port\": 4711}', flush=True); sys.stdin.buffer.read()"
SILENT = "sys.stdin.buffer.read()"
EXITS = "sys.exit(3)"
KILLED = "import signal; os.kill(os.getpid(), signal.SIGKILL)"
CHATTY = "print('hello', flush=True); sys.stdin.buffer.read()"
DEAF = "print('{\"port\": 4711}', flush=True); import time; time.sleep(600)"
TELLS = (
    "n = int.from_bytes(sys.stdin.buffer.read(4)); orders = sys.stdin.buffer.read(n).decode(); "
    "open(sys.argv[1] + '.orders', 'w').write(orders); print('{\"port\": 4711}', flush=True); sys.stdin.buffer.read()"
)

RunAs = Callable[[str], None]


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """The file with the numbers of the agents' processes; all of them have to be gone in the end."""
    path = tmp_path / "pids"
    path.touch()
    yield path
    assert not [pid for pid in processes(path) if is_alive(pid)]


@pytest.fixture
def run_as(monkeypatch: pytest.MonkeyPatch, pids: Path) -> RunAs:
    """Choose what the next agents do."""

    def choose(program: str) -> None:
        code = f"import os, sys; open(sys.argv[1], 'a').write(str(os.getpid()) + '\\n'); {program}"
        command = [sys.executable, "-I", "-S", "-c", code, str(pids)]
        monkeypatch.setattr(spawned, "agent_command", lambda *args, **kwargs: command)

    choose(GOOD)
    return choose


@pytest.fixture
def ticket() -> Iterator[Ticket]:
    authority = Authority("0123abcd")
    reactor = Reactor.in_thread()
    yield Ticket("0123abcd", "", authority.issue, reactor, lambda *_: pytest.fail("no machine is inside"))
    reactor.stop()


@pytest.fixture
def system(run_as: RunAs) -> Iterator[LocalSystem]:
    system = LocalSystem()
    yield system
    system.shutdown(5.0)


def processes(pids: Path) -> list[int]:
    return [int(line) for line in pids.read_text().split()]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_places_are_where_the_one_agent_listens(system: LocalSystem, ticket: Ticket, pids: Path) -> None:
    first = system.launch(2, ticket)
    second = system.launch(1, ticket)
    assert len(first) == 2
    assert {(place.host, place.port, place.maxprocs) for place in (*first, *second)} == {("127.0.0.1", 4711, 1)}
    assert len({place.agent_id for place in (*first, *second)}) == 1
    assert len(processes(pids)) == 1


def test_files_of_its_machines_host_are_read_here(system: LocalSystem, ticket: Ticket, pids: Path) -> None:
    (place,) = system.launch(1, ticket)
    machine = SimpleNamespace(machine_id=f"{place.agent_id}-m1")
    with system.read(machine, str(pids)) as file:
        assert file.read() == pids.read_bytes()
    with pytest.raises(FileNotFoundError):
        system.read(machine, f"{pids}.none")
    with pytest.raises(InvalidCall, match="'h1-m1' is none of this local system's"):
        system.read(SimpleNamespace(machine_id="h1-m1"), str(pids))
    with pytest.raises(InvalidCall, match="no log of its hosts"):
        system.tail(machine)


def test_maxprocs_is_passed_on(run_as: RunAs, ticket: Ticket) -> None:
    system = LocalSystem(maxprocs=4)
    (place,) = system.launch(1, ticket)
    assert place.maxprocs == 4
    system.shutdown(5.0)


def test_the_agent_is_told_who_it_is_and_its_clocks(run_as: RunAs, ticket: Ticket, pids: Path) -> None:
    run_as(TELLS)
    system = LocalSystem(keepalive=Keepalive(interval=1.0, lease=7.0, hang=8.0, first_contact=9.0))
    (place,) = system.launch(1, ticket)
    orders = json.loads(Path(f"{pids}.orders").read_text())
    assert orders["identity"]["id"] == place.agent_id
    assert orders["identity"]["role"] == "agent"
    assert orders["keepalive"] == {"lease": 7.0, "hang": 8.0, "first_contact": 9.0}
    assert orders["listen"] == ["127.0.0.1", 0]
    assert orders["driver_pid"] == os.getpid()
    system.shutdown(5.0)


def test_the_agent_starts_early_if_it_is_prepared(system: LocalSystem, ticket: Ticket, pids: Path) -> None:
    system.prepare()
    eventually(lambda: len(processes(pids)) == 1, "no agent starts")
    system.launch(1, ticket)
    assert len(processes(pids)) == 1


def test_at_least_one_machine_has_to_be_asked_for(system: LocalSystem, ticket: Ticket) -> None:
    with pytest.raises(ProvisionError, match="at least one"):
        system.launch(0, ticket)


# an agent that does not come up


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (EXITS, "the agent ended with status 3 before it listened; what it wrote to stderr says why"),
        (KILLED, "the agent was killed by signal 9 before it listened"),
        (CHATTY, r"the agent reported b'hello\\n' instead of its port"),
    ],
)
def test_an_agent_that_does_not_come_up_is_an_error_with_the_reason(
    system: LocalSystem, ticket: Ticket, run_as: RunAs, program: str, reason: str
) -> None:
    run_as(program)
    with pytest.raises(ProvisionError, match=reason):
        system.launch(1, ticket)


def test_an_agent_that_dies_before_it_gets_its_orders_is_one_too(
    system: LocalSystem, ticket: Ticket, run_as: RunAs, pids: Path
) -> None:
    run_as(EXITS)
    system.prepare()
    eventually(lambda: processes(pids), "no agent starts")
    assert system._agent is not None
    eventually(lambda: system._agent and not system._agent.is_alive, "the agent does not end")
    with pytest.raises(ProvisionError, match="ended with status 3"):
        system.launch(1, ticket)


def test_an_agent_that_says_nothing_is_given_up(
    system: LocalSystem, ticket: Ticket, run_as: RunAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawned, "_REPORT_TIMEOUT", 0.1)
    run_as(SILENT)
    with pytest.raises(ProvisionError, match=r"the agent \(process \d+\) did not come up within"):
        system.launch(1, ticket)


def test_after_a_failure_the_next_start_tries_again(system: LocalSystem, ticket: Ticket, run_as: RunAs) -> None:
    run_as(EXITS)
    with pytest.raises(ProvisionError):
        system.launch(1, ticket)
    run_as(GOOD)
    assert system.launch(1, ticket)[0].port == 4711


def test_an_agent_that_died_is_replaced_for_the_machines_to_come(
    system: LocalSystem, ticket: Ticket, pids: Path
) -> None:
    (first,) = system.launch(1, ticket)
    os.kill(processes(pids)[0], signal.SIGKILL)
    eventually(lambda: system._agent and not system._agent.is_alive, "the agent does not end")
    (second,) = system.launch(1, ticket)
    assert second.agent_id != first.agent_id
    assert len(processes(pids)) == 2


def test_an_unknown_interpreter_is_named(ticket: Ticket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ProvisionError, match=r"sys\.executable is empty"):
        LocalSystem().prepare()


def test_an_interpreter_that_is_not_there_is_named(ticket: Ticket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawned, "agent_command", lambda *args, **kwargs: ["/no/such/python"])
    with pytest.raises(ProvisionError, match=r"the agent's process could not be started .*No such file"):
        LocalSystem().launch(1, ticket)


# the end


def test_shutdown_ends_the_agent_and_may_be_called_twice(system: LocalSystem, ticket: Ticket, pids: Path) -> None:
    system.launch(1, ticket)
    begin = time.monotonic()
    system.shutdown(10.0)
    assert not is_alive(processes(pids)[0])
    system.shutdown(10.0)
    assert time.monotonic() - begin < 5


def test_an_agent_that_does_not_end_is_killed(system: LocalSystem, ticket: Ticket, run_as: RunAs, pids: Path) -> None:
    run_as(DEAF)
    system.launch(1, ticket)
    begin = time.monotonic()
    system.shutdown(0.1)
    assert 0.1 <= time.monotonic() - begin < 5
    assert not is_alive(processes(pids)[0])


def test_it_ends_and_is_killed_where_processes_have_no_descriptors(
    system: LocalSystem, ticket: Ticket, run_as: RunAs, pids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    system.launch(1, ticket)
    system.shutdown(10.0)
    deaf = LocalSystem()
    run_as(DEAF)
    deaf.launch(1, ticket)
    begin = time.monotonic()
    deaf.shutdown(0.1)
    assert 0.1 <= time.monotonic() - begin < 5
    assert not any(map(is_alive, processes(pids)))


def test_it_may_be_shut_down_unused() -> None:
    system = LocalSystem()
    system.shutdown(1.0)
    system.shutdown(1.0)


def test_after_its_end_it_provides_nothing(system: LocalSystem, ticket: Ticket, pids: Path) -> None:
    system.shutdown(1.0)
    for use in (lambda: system.launch(1, ticket), system.prepare):
        with pytest.raises(ProvisionError, match="was shut down; make a new one"):
            use()
    assert processes(pids) == []


def test_another_thread_may_shut_it_down_while_it_waits_for_its_agent(
    system: LocalSystem, ticket: Ticket, run_as: RunAs, pids: Path
) -> None:
    run_as(SILENT)
    errors: list[ProvisionError] = []

    def launch() -> None:
        try:
            system.launch(1, ticket)
        except ProvisionError as error:
            errors.append(error)

    launching = threading.Thread(target=launch)
    launching.start()
    eventually(lambda: processes(pids), "no agent starts")
    begin = time.monotonic()
    system.shutdown(10.0)
    launching.join(10)
    assert time.monotonic() - begin < 5
    assert [str(error) for error in errors] == ["this local system was shut down while it started its agent"]


def test_an_agent_that_is_ended_between_its_orders_and_its_report_is_an_error(
    system: LocalSystem, ticket: Ticket, run_as: RunAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_as(SILENT)
    real = SpawnedAgent._report

    def ended_before(agent: Any) -> bytes:
        system.shutdown(10.0)
        return real(agent)

    monkeypatch.setattr(SpawnedAgent, "_report", ended_before)
    with pytest.raises(ProvisionError, match="was shut down while it started its agent"):
        system.launch(1, ticket)


def test_a_signals_handler_may_shut_it_down_while_it_waits_for_its_agent(
    system: LocalSystem, ticket: Ticket, run_as: RunAs, pids: Path
) -> None:
    run_as(SILENT)
    over = threading.Event()

    def shut_down(*_: Any) -> None:
        system.shutdown(10.0)
        over.set()

    def interrupt(main: int) -> None:
        eventually(lambda: processes(pids), "no agent starts")
        while not over.wait(0.05):
            signal.pthread_kill(main, signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, shut_down)
    interrupting = threading.Thread(target=interrupt, args=(threading.main_thread().ident,))
    interrupting.start()
    try:
        with pytest.raises(ProvisionError, match="was shut down while it started its agent"):
            system.launch(1, ticket)
    finally:
        interrupting.join(10)
        signal.signal(signal.SIGUSR2, before)


def test_several_threads_that_start_at_once_share_an_agent(system: LocalSystem, ticket: Ticket, pids: Path) -> None:
    places: list[Launched] = []
    threads = [threading.Thread(target=lambda: places.extend(system.launch(1, ticket))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len({place.agent_id for place in places}) == 1
    assert len(places) == 4
    assert len(processes(pids)) == 1


def test_no_descriptor_is_left(run_as: RunAs, ticket: Ticket) -> None:
    directory = Path("/proc/self/fd")
    if not directory.exists():
        pytest.skip("open descriptors are counted by Linux's /proc")
    before = len(list(directory.iterdir()))
    for program in (GOOD, EXITS, CHATTY):
        run_as(program)
        system = LocalSystem()
        if program == GOOD:
            system.launch(1, ticket)
        else:
            with pytest.raises(ProvisionError):
                system.launch(1, ticket)
        system.shutdown(5.0)
    assert len(list(directory.iterdir())) == before
