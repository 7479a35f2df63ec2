"""Processes are told apart as proc(5) describes them."""

from __future__ import annotations

import os

import pytest

from bigmachine.agent.processes.tree import children, look_at, memory_in_use, parse_stat

LINE = (
    "4711 (a (b) c) S 12 4711 4700 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 8888 1000 10 18446744073709551615 1 1 0"
)


def test_a_name_with_parentheses_and_spaces_does_not_shift_the_fields() -> None:
    process = parse_stat(LINE)
    assert (process.pid, process.state, process.parent) == (4711, "S", 12)
    assert (process.group, process.session, process.cpu) == (4711, 4700, 300)


@pytest.mark.parametrize("text", ["", "4711 (cat", "4711 (cat) S 1"])
def test_a_line_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="proc"):
        parse_stat(text)


def test_this_process_is_seen_as_the_system_sees_it() -> None:
    process = look_at(os.getpid())
    assert process is not None
    assert (process.pid, process.parent) == (os.getpid(), os.getppid())
    assert (process.group, process.session) == (os.getpgrp(), os.getsid(0))
    assert process.state == "R"


def test_a_process_that_is_not_there_is_not_seen() -> None:
    assert look_at(2**22 + 1) is None


def test_children_are_found_until_they_are_waited_for() -> None:
    read, write = os.pipe()
    pid = os.posix_spawn("/bin/cat", ["cat"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, read, 0)])
    os.close(read)
    assert pid in children()
    os.close(write)
    os.waitpid(pid, 0)
    assert pid not in children()


def test_memory_in_use_is_a_share() -> None:
    assert 0 < memory_in_use() < 100
