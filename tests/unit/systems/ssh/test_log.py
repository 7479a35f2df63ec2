"""A host's log: what was said stays for a while, and whoever follows it gets every line."""

from __future__ import annotations

import threading

from bigmachine.systems.ssh.log import HostLog


def test_the_last_lines_are_kept() -> None:
    log = HostLog()
    for number in range(1200):
        log.add(str(number))
    assert log.last(2) == ["1198", "1199"]
    log.end()
    assert list(log.follow()) == [str(number) for number in range(200, 1200)]


def test_whoever_follows_gets_what_was_said_and_what_is_said_until_the_end() -> None:
    log = HostLog()
    log.add("before")
    told: list[str] = []
    has_begun = threading.Event()

    def read() -> None:
        for line in log.follow():
            told.append(line)
            has_begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert has_begun.wait(10)
    log.add("after")
    log.end()
    reader.join(10)
    assert told == ["before", "after"]
