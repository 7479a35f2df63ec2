"""What a machine logs is sent as records, or printed by the program's own handlers, and never both or neither."""

from __future__ import annotations

import functools
import io
import logging
import os
import select
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from bigmachine.agent.processes.control import BlockingChannel
from bigmachine.agent.records import RecordReader, decode
from bigmachine.program.records import send_records, silence_copies, take_levels


class Agent:
    """The end of the pipe at which the agent reads."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._reader = RecordReader()

    def records(self) -> list[dict[str, object]]:
        records = []
        while select.select([self.fd], [], [], 0)[0]:
            if not (data := os.read(self.fd, 65536)):
                break
            records += [decode(record) for record in self._reader.feed(data)]
        return records

    def said(self) -> list[object]:
        return [record["msg"] for record in self.records()]


@pytest.fixture
def restored() -> Iterator[None]:
    """Put logging back as it was."""
    root = logging.getLogger()
    basic_config, level, parent = logging.basicConfig, root.level, root.parent
    known = set(root.manager.loggerDict)
    yield
    logging.basicConfig = basic_config
    root.parent = parent
    root.setLevel(level)
    for name in set(root.manager.loggerDict) - known:
        del root.manager.loggerDict[name]


class Machine:
    """This process, as one whose program has not configured logging yet."""

    def __enter__(self) -> Agent:
        ours, theirs = socket.socketpair()
        root = logging.getLogger()
        self._handlers, root.handlers[:] = root.handlers[:], []
        self._root = root
        channel = BlockingChannel(theirs)
        send_records(channel)
        agent_side = BlockingChannel(ours)
        message = agent_side.receive()
        channel.close()
        agent_side.close()
        assert message is not None
        assert message.kind == "records"
        (self._fd,) = message.fds
        return Agent(self._fd)

    def __exit__(self, *exc: object) -> None:
        self._root.handlers[:] = self._handlers
        above = self._root.parent
        assert above is not None
        os.close(above.handlers[0]._fd)  # type: ignore[attr-defined]  # a RecordSender
        os.close(self._fd)


def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", printed)
    return printed


pytestmark = pytest.mark.usefixtures("restored")


def test_a_record_is_sent_with_all_that_says_something_elsewhere() -> None:
    with Machine() as agent:
        try:
            raise ValueError("no luck")
        except ValueError:
            logging.getLogger("svc.x").exception("%d of %s", 3, "five", extra={"request": 7, "peer": object})
        (record,) = agent.records()
    assert (record["name"], record["levelno"], record["levelname"]) == ("svc.x", logging.ERROR, "ERROR")
    assert record["msg"] == "3 of five"
    assert str(record["exc_text"]).endswith("ValueError: no luck")
    assert record["extra"] == {"request": 7, "peer": "<class 'object'>"}
    assert record["pathname"] == __file__
    assert record["process"] == os.getpid()


def test_nothing_is_printed_of_what_is_sent(capfd: pytest.CaptureFixture[str]) -> None:
    with Machine() as agent:
        logging.getLogger("svc").warning("one")
        logging.warning("two")  # noqa: LOG015 (this would configure the root logger)
        logging.getLogger("svc").warning("three")
        assert agent.said() == ["one", "two", "three"]
    assert capfd.readouterr() == ("", "")


def test_what_the_program_prints_itself_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = stderr(monkeypatch)
    with Machine() as agent:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
        logging.getLogger("svc").info("one")
        assert agent.said() == []
    assert printed.getvalue() == "INFO one\n"


def test_what_the_program_had_configured_before_start_is_sent_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = stderr(monkeypatch)
    with Machine() as agent:
        logging.basicConfig(level=logging.INFO)
        silence_copies()
        logging.getLogger("svc").info("one")
        assert agent.said() == ["one"]
    assert printed.getvalue() == ""


def test_a_logger_that_keeps_its_records_to_itself_prints_them(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = stderr(monkeypatch)
    with Machine() as agent:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        own = logging.getLogger("own")
        own.propagate = False
        own.addHandler(logging.getLogger().handlers[0])
        silence_copies()
        own.warning("one")
        assert agent.said() == []
    assert printed.getvalue() == "one\n"


def test_a_file_or_a_null_handler_of_the_program_takes_nothing_away(tmp_path: os.PathLike[str]) -> None:
    with Machine() as agent:
        file = logging.FileHandler(os.path.join(tmp_path, "log"))
        logging.getLogger().addHandler(file)
        logging.getLogger("lib").addHandler(logging.NullHandler())
        logging.getLogger("lib").warning("one")
        file.close()
        assert agent.said() == ["one"]
        assert file.baseFilename
        with open(file.baseFilename) as log:
            assert log.read() == "one\n"


def test_a_handler_above_its_level_prints_nothing_so_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = stderr(monkeypatch)
    with Machine() as agent:
        handler = logging.StreamHandler()
        handler.setLevel(logging.ERROR)
        logging.getLogger("svc").addHandler(handler)
        logging.getLogger("svc").warning("one")
        logging.getLogger("svc").error("two")
        assert agent.said() == ["one"]
    assert printed.getvalue() == "two\n"


def test_a_record_with_wrong_arguments_is_told_as_always(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = stderr(monkeypatch)
    with Machine() as agent:
        logging.getLogger("svc").warning("%d", "three")
        assert agent.said() == []
    assert "--- Logging error ---" in printed.getvalue()


def test_a_number_that_is_another_file_by_now_is_not_written_to(
    tmp_path: os.PathLike[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with Machine() as agent:
        above = logging.getLogger().parent
        assert above is not None
        fd = above.handlers[0]._fd  # type: ignore[attr-defined]  # a RecordSender
        with open(os.path.join(tmp_path, "mine"), "wb") as mine:
            os.dup2(mine.fileno(), fd)
        logging.getLogger("svc").warning("one")
        assert agent.said() == []
        assert os.path.getsize(os.path.join(tmp_path, "mine")) == 0
    assert capfd.readouterr().err == "one\n"


def test_threads_and_forks_write_whole_records() -> None:
    with Machine() as agent:
        text = "x" * 10_000

        def log_many(name: str) -> None:
            for number in range(20):
                logging.getLogger(name).warning("%s %d %s", name, number, text)

        threads = [threading.Thread(target=functools.partial(log_many, f"t{i}")) for i in range(3)]
        if (pid := os.fork()) == 0:
            log_many("child")
            os._exit(0)
        for thread in threads:
            thread.start()
        said: list[str] = []
        while len(said) < 80:
            assert select.select([agent.fd], [], [], 10)[0], f"only {len(said)} came"
            said += map(str, agent.said())
        for thread in threads:
            thread.join()
        assert os.waitpid(pid, 0)[1] == 0
    assert all(line.endswith(text) for line in said)
    for name in ("t0", "t1", "t2", "child"):
        assert [int(line.split()[1]) for line in said if line.startswith(f"{name} ")] == list(range(20))


def test_the_drivers_levels_hold_where_the_program_has_none_of_its_own() -> None:
    with Machine() as agent:
        logging.getLogger("own").setLevel(logging.ERROR)
        take_levels({"": logging.INFO, "svc": logging.DEBUG, "own": logging.DEBUG})
        for name in ("svc", "own", "other"):
            logging.getLogger(name).debug("%s debug", name)
            logging.getLogger(name).info("%s info", name)
        assert agent.said() == ["svc debug", "svc info", "other info"]
