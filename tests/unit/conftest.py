"""What several rooms' tests need."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bigmachine import Machine, State
from bigmachine.session import Session
from bigmachine.systems.inprocess import InprocessSystem
from tests.unit.inside import Echo, inside


@pytest.fixture
def interrupts() -> Iterator[Callable[[threading.Event], None]]:
    """Interrupt the main thread, as Ctrl-C does, once an event is set: `interrupts(event)`.

    The signal is sent until its handler has run: one that comes just before a lock is waited for is only seen after.
    """
    seen, over = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def handle(number: int, frame: object) -> None:
        if not seen.is_set():
            seen.set()
            raise KeyboardInterrupt

    def send(event: threading.Event) -> None:
        event.wait(10)
        while not seen.is_set() and not over.is_set():
            signal.pthread_kill(main, signal.SIGUSR1)
            seen.wait(0.05)

    def begin(event: threading.Event) -> None:
        threads.append(threading.Thread(target=send, args=(event,)))
        threads[-1].start()

    main = threading.main_thread().ident or 0
    before = signal.signal(signal.SIGUSR1, handle)
    yield begin
    over.set()
    for thread in threads:
        thread.join(10)
    signal.signal(signal.SIGUSR1, before)


# A session inside this process, for each test that wants one.


@pytest.fixture
def system() -> InprocessSystem:
    return InprocessSystem()


@pytest.fixture
def session(system: InprocessSystem) -> Iterator[Session]:
    with inside(system) as (_, session):
        yield session


@pytest.fixture
def machine(session: Session) -> Machine:
    (machine,) = session.start(services=[Echo()])
    machine.wait(State.RUNNING, 10)
    return machine


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A register of this test's own."""
    place = tmp_path / "runtime"
    place.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return place
