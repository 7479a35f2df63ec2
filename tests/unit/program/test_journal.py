"""What a process has begun is known to the next one, up to a number of calls."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence

import pytest

from bigmachine.program.journal import Journal


class Agent:
    """Keeps what it is given, as the agent does."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def send(self, body: Mapping[str, object], fds: Sequence[int]) -> None:
        assert body == {"k": "journal"}
        self.fds += fds

    def journal(self, capacity: int = 100) -> Journal:
        """Make that of the next process."""
        return Journal(self.send, os.dup(self.fds[-1]) if self.fds else None, capacity)


@pytest.fixture
def agent() -> Iterator[Agent]:
    before = set(os.listdir("/proc/self/fd"))
    agent = Agent()
    yield agent
    for name in os.listdir("/proc/self/fd"):  # a journal is there for the life of a process, and closes nothing
        if name not in before:
            try:
                os.close(int(name))
            except OSError:
                assert name  # the one that listed them


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_nothing_is_opened_before_there_is_a_call_to_note(agent: Agent) -> None:
    journal = agent.journal()
    assert journal.former() == []
    journal.note(key(1), "Supervisor.register")
    assert agent.fds == []
    journal.note(key(1), "S.method")
    assert len(agent.fds) == 1


def test_each_process_knows_what_those_before_it_began(agent: Agent) -> None:
    agent.journal().note(key(1), "S.method")
    second = agent.journal()
    assert second.former() == [key(1)]
    second.note(key(2), "S.method")
    third = agent.journal()
    assert third.former() == [key(1), key(2)]
    assert len(agent.fds) == 1, "there is one file for all of them"


def test_the_newest_are_kept(agent: Agent) -> None:
    first = agent.journal(capacity=4)
    for number in range(7):
        first.note(key(number), "S.method")
    second = agent.journal(capacity=4)
    assert second.former() == [key(number) for number in (3, 4, 5, 6)]
    second.note(key(7), "S.method")
    assert agent.journal(capacity=4).former() == [key(number) for number in (4, 5, 6, 7)]


def test_a_file_that_got_its_number_is_left_alone(
    agent: Agent, tmp_path: os.PathLike[str], caplog: pytest.LogCaptureFixture
) -> None:
    journal = agent.journal()
    journal.note(key(1), "S.method")
    number = journal._fd
    assert number is not None
    with open(os.path.join(tmp_path, "own"), "wb") as own:
        os.dup2(own.fileno(), number)
        for _ in range(3):
            journal.note(key(2), "S.method")
        assert os.fstat(own.fileno()).st_size == 0
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "may run twice" in record.getMessage()
