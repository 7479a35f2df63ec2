"""The arguments of `start` are checked before anything is started, and reach the machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from bigmachine import Image
from bigmachine.errors import InvalidCall
from bigmachine.image import Entry
from bigmachine.machine import Address
from bigmachine.session.order import Order, checked_count
from bigmachine.trust import Identity, Role
from tests.unit.inside import Echo

ENTRY = Entry("none", description="a test")
IDENTITY = Identity("0123abcd", Role.MACHINE, "h1-m1", b"", b"", b"")


def order(**changes: Any) -> Order:
    given: dict[str, Any] = {"services": [Echo()], "environ": None, "args": None, "image": None, "entry": ENTRY}
    return Order.take(**given | changes)


def spec(**changes: Any) -> Any:
    return order(**changes).spec(Address("127.0.0.1", 80, "h1-m1"), IDENTITY, "name", "local", 3)


def test_a_machine_is_told_what_this_program_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prog", "-n", "3"])
    told = spec()
    assert (told.machine_id, told.name, told.identity) == ("h1-m1", "m1", IDENTITY)
    assert told.argv == ["prog", "-n", "3"]
    assert told.environ == dict(os.environ)
    assert told.cwd == os.getcwd()
    assert told.entry == ENTRY
    assert {os.path.abspath(path) for path in sys.path} <= set(told.sys_path)
    assert (told.session_name, told.system_name, told.maxprocs) == ("name", "local", 3)
    assert told.driver_pid == os.getpid()
    assert told.interpreter == []
    assert told.interactive is False


def test_environ_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("CHANGED", "1")
    environ = spec(environ={"CHANGED": "2", "NEW": ""}).environ
    assert (environ["KEPT"], environ["CHANGED"], environ["NEW"]) == ("1", "2", "")


def test_the_environment_is_that_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = order()
    monkeypatch.setenv("LATER", "1")
    assert "LATER" not in taken.environ


@pytest.mark.parametrize("args", [[], ["-x"], ("-x", "y")])
def test_args_replace_those_of_the_program(args: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prog", "-n", "3"])
    assert spec(args=args).argv == ["prog", *args]


def test_a_program_without_a_command_line_has_an_empty_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    assert spec(args=["-x"]).argv == ["", "-x"]


def test_an_image_says_what_runs_with_which_arguments_and_interpreter(tmp_path: Path) -> None:
    program = tmp_path / "other.py"
    program.touch()
    told = spec(image=Image(program=program, args=["-i"], python="python3"))
    assert told.entry.path == str(program)
    assert told.argv[1:] == ["-i"]
    assert told.interpreter[0] == "python3"
    assert spec(image=Image(program=program, args=["-i"]), args=["-a"]).argv[1:] == ["-a"]
    # Its __main__ is not ours.
    assert told.interactive is True


@pytest.mark.parametrize("odd", ["-n 3", b"-n", [1], ["-n", 3]])
def test_args_have_to_be_strings(odd: Any) -> None:
    with pytest.raises(InvalidCall, match="is no sequence of strings"):
        order(args=odd)


@pytest.mark.parametrize(
    ("odd", "text"),
    [
        (["A=1"], "is no mapping"),
        ({"A": 1}, "both have to be strings"),
        ({1: "A"}, "both have to be strings"),
        ({"": "1"}, "no system takes"),
        ({"A=B": "1"}, "no system takes"),
        ({"A": "1\0"}, "no system takes"),
    ],
)
def test_environ_has_to_be_one(odd: Any, text: str) -> None:
    with pytest.raises(InvalidCall, match=text):
        order(environ=odd)


def test_services_are_checked() -> None:
    with pytest.raises(InvalidCall, match="no services"):
        order(services=[])


class Index:
    def __index__(self) -> int:
        return 3


@pytest.mark.parametrize(("n", "count"), [(1, 1), (500, 500), (Index(), 3)])
def test_a_number_of_machines_is_an_int_of_at_least_one(n: Any, count: int) -> None:
    assert checked_count(n) == count


@pytest.mark.parametrize("n", [0, -1, True, 2.0, "2", None, [Echo()]])
def test_what_is_no_such_number_is_refused(n: Any) -> None:
    with pytest.raises(InvalidCall, match="the number of machines has to be an int of at least 1"):
        checked_count(n)
