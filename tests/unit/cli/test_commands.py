"""Commands, asked of a session inside this process."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bigmachine import Machine
from bigmachine.cli.commands import COMMANDS
from bigmachine.cli.main import main, parser_for
from bigmachine.session import Session, register
from bigmachine.systems.inprocess import InprocessSystem
from tests.unit.inside import Echo, inside

pytestmark = pytest.mark.usefixtures("runtime")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; give its exit code, and what it printed."""

    def call(*words: str) -> tuple[int, str, str]:
        try:
            code = main(words)
        except SystemExit as error:
            code = int(str(error.code))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def session(runtime: Path, system: InprocessSystem) -> Iterator[Session]:
    with inside(system) as (_, session):
        yield session


def as_json(printed: tuple[int, str, str]) -> Any:
    code, out, err = printed
    assert (code, err) == (0, "")
    return json.loads(out)


class TestWithoutSession:
    @pytest.mark.parametrize(
        "words",
        [
            ["status"],
            ["logs"],
            ["top"],
            ["vars"],
            ["timeline"],
            ["dump", "x.zip"],
            ["kill", "m1"],
            ["stack"],
            ["heap"],
            ["profile", "--seconds", "1"],
        ],
    )
    def test_that_there_is_none_is_said_with_exit_code_3(self, run: Run, words: list[str]) -> None:
        code, out, err = run(*words)
        assert (code, out) == (3, "")
        assert "runs on this computer, and none has ended lately" in err

    def test_the_last_one_that_ended_is_named_with_its_reason(self, run: Run) -> None:
        ended = register.Ended(time.time() - 190, "error", "the program failed: KeyError: 'x'")
        known = register.Record("aaaa1111", 1, "1", register.here(), program="pi.py", ended=ended)
        register.save(register.made_folder(), known)
        code, _, err = run("status")
        assert code == 3
        assert "pi.py (aaaa1111), ended 3 min 10 s ago: the program failed: KeyError: 'x'" in err

    def test_ls_is_content(self, run: Run) -> None:
        assert run("ls")[0] == 0
        assert as_json(run("ls", "--json")) == {"sessions": []}


class TestUsage:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_help_has_the_example_and_the_exit_codes(self, run: Run, name: str) -> None:
        code, out, _ = run(name, "--help")
        assert code == 0
        assert COMMANDS[name].example in out
        assert "exit codes" in out
        assert ("--json" in out) == COMMANDS[name].json
        assert ("--session" in out) == COMMANDS[name].of_session

    @pytest.mark.parametrize("name", COMMANDS)
    def test_the_example_is_right(self, name: str) -> None:
        import shlex

        program, *words = shlex.split(COMMANDS[name].example)
        assert program == "bigmachine"
        assert parser_for(words).parse_args(words).command == name

    @pytest.mark.parametrize(
        "words",
        [
            [],
            ["nothing"],
            ["logs", "-n", "-1"],
            ["logs", "--stream", "stdin"],
            ["profile", "heap"],
            ["profile", "--out", "cpu.xyz"],
            ["profile", "--out", "-", "--json"],
            ["kill"],
            ["kill", "m1", "--all"],
            ["top", "-n", "0"],
            ["ls", "--region", "x"],
        ],
    )
    def test_wrong_usage_has_exit_code_2(self, run: Run, words: list[str]) -> None:
        assert run(*words)[0] == 2

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["logs", "-n", "x"], "'x' is not a whole number, at least 0"),
            (["top", "-n", "1.5"], "'1.5' is not a whole number, at least 1"),
            (["top", "-d", "0"], "'0' is not a number of seconds above 0"),
            (["top", "-d", "nan"], "'nan' is not a number of seconds above 0"),
            (["profile", "--seconds", "0"], "'0' is not a number of seconds above 0"),
            (["profile", "--seconds", "inf"], "'inf' is not a number of seconds above 0"),
            (["heap", "--seconds", "soon"], "'soon' is not a number of seconds above 0"),
            (["profile", "--hertz", "0"], "0 is not a whole number, at least 1"),
            (["debug", "m1", "--port", "99999"], "99999 is not a whole number from 0 to 65535"),
        ],
    )
    def test_a_number_that_is_none_is_told_as_a_person_would(self, run: Run, words: list[str], told: str) -> None:
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert err.endswith(f": {told}\n")

    def test_an_output_that_is_closed_is_no_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdout", None)
        assert main(["ls"]) == 0
        sys.stdout.close()

    def test_the_version(self, run: Run) -> None:
        code, out, _ = run("--version")
        assert code == 0
        assert out.startswith("bigmachine ")

    def test_the_parser_of_all_commands_knows_all_arguments(self) -> None:
        parser = parser_for([], everything=True)
        assert parser.parse_args(["logs", "-f"]).follow


class TestSession:
    def test_ls_shows_it_with_its_machines(self, run: Run, session: Session, machine: Machine) -> None:
        (told,) = as_json(run("ls", "--json"))["sessions"]
        assert (told["id"], told["pid"], told["running"], told["answers"]) == (session._id, os.getpid(), True, True)
        assert [(each["name"], each["state"]) for each in told["machines"]] == [("m1", "RUNNING")]
        _, out, _ = run("ls")
        assert f"{session._id}  " in out
        assert "m1  RUNNING" in out
        assert "\x1b" not in out

    @pytest.mark.parametrize("how", ["id", "beginning", "pid"])
    def test_it_is_chosen(self, run: Run, session: Session, how: str) -> None:
        wanted = {"id": session._id, "beginning": session._id[:4], "pid": str(os.getpid())}[how]
        assert run("timeline", "--session", wanted)[0] == 0

    def test_another_one_is_not_there(self, run: Run, session: Session) -> None:
        code, _, err = run("timeline", "-s", "zzz")
        assert code == 3
        assert session._id in err

    def test_of_two_one_must_be_said(self, run: Run, session: Session) -> None:
        with inside(InprocessSystem()) as (_, other):
            code, _, err = run("timeline")
            assert code == 3
            assert session._id in err
            assert other._id in err
            assert run("timeline", "-s", other._id)[0] == 0
            code, _, err = run("timeline", "-s", str(os.getpid()))
            assert (code, "several sessions" in err) == (3, True)
        assert run("timeline")[0] == 0

    def test_it_is_found_by_its_end_when_it_has_ended(self, run: Run, session: Session) -> None:
        session.shutdown()
        (told,) = as_json(run("ls", "--json"))["sessions"]
        assert (told["running"], told["ended"]["why"]) == (False, "finished")
        assert os.listdir(register.made_folder()) == [f"{session._id}.json"]
        code, out, _ = run("top")
        assert (code, "ended" in out) == (3, True)
        code, out, _ = run("top", "--json")
        assert (code, json.loads(out)["ended"]["why"]) == (3, "finished")

    @pytest.mark.parametrize("command", ["status", "logs", "vars -m", "stack -m", "heap -m", "timeline", "kill"])
    def test_a_machine_that_is_not_there_has_exit_code_3(
        self, run: Run, session: Session, machine: Machine, command: str
    ) -> None:
        code, _, err = run(*command.split(), "m9")
        assert (code, err) == (3, "bigmachine: no machine 'm9': there is m1\n")

    def test_status(self, run: Run, session: Session, machine: Machine) -> None:
        (told,) = as_json(run("status", "--json"))["machines"]
        assert told["name"] == "m1"
        assert told["memory"]["total"] > 0
        assert "keepalive:" in run("status", "m1")[1]

    def test_vars(self, run: Run, session: Session, machine: Machine) -> None:
        machine.call(Echo.same, 1)
        told = as_json(run("vars", "--json", "client.calls*"))
        assert told["m1"]['client.calls{method="Echo.same"}'] == 1
        assert run("vars", "no.such.*")[0] == 3

    def test_timeline(self, run: Run, session: Session, machine: Machine) -> None:
        spans = as_json(run("timeline", "--json", "m1"))["spans"]
        assert spans[-1]["phase"] == "running"
        assert spans[-1]["seconds"] == 0
        assert "running" in run("timeline")[1]

    def test_kill(self, run: Run, session: Session, machine: Machine) -> None:
        (other,) = session.start(services=[Echo()])
        told = as_json(run("kill", "m1", "--json"))["machines"]
        assert [(each["name"], each["state"]) for each in told] == [("m1", "STOPPED")]
        assert machine.state.name == "STOPPED"
        assert other.call(Echo.same, 1) == 1
        assert run("kill", "--all")[0] == 0
        assert other.state.name == "STOPPED"
        assert run("kill", "--all") == (0, "the session has no machine\n", "")

    def test_dump(self, run: Run, session: Session, machine: Machine, tmp_path: Path) -> None:
        told = as_json(run("dump", str(tmp_path / "now.zip"), "--json"))
        assert told == {"file": str(tmp_path / "now.zip"), "bytes": (tmp_path / "now.zip").stat().st_size}
        code, _, err = run("dump", str(tmp_path / "not-there" / "now.zip"))
        assert code == 1
        assert "could not be written" in err

    def test_top(self, run: Run, session: Session, machine: Machine) -> None:
        code, out, _ = run("top", "-n", "2", "-d", "0.2", "--json")
        looks = [json.loads(line) for line in out.splitlines()]
        assert code == 0
        assert [[row["name"] for row in look["machines"]] for look in looks] == [["m1"], ["m1"]]
        _, out, _ = run("top", "-n", "1")
        assert "MACHINE" in out
        assert "1 of 1 machines running" in out

    def test_documents_keep_their_shape(self, run: Run, session: Session, machine: Machine) -> None:
        """Programs rely on these names: new ones may come, none of these may go."""
        (told,) = as_json(run("ls", "--json"))["sessions"]
        known = "id name pid program argv directory python system started updated machines cost ended running answers"
        assert set(known.split()) <= told.keys()
        assert {"name", "address", "host", "state", "owned", "maxprocs"} <= told["machines"][0].keys()
        (condition,) = as_json(run("status", "--json"))["machines"]
        assert {"name", "address", "state", "keepalive", "memory", "disk", "load", "runtime", "why"} <= condition.keys()
        assert {"next", "replies"} == condition["keepalive"].keys()
        span = as_json(run("timeline", "--json"))["spans"][0]
        assert {"machine", "phase", "began", "ended", "seconds", "sent"} <= span.keys()
        look = json.loads(run("top", "-n", "1", "--json")[1])
        assert {"now", "machines", "cost"} <= look.keys()
        profile = as_json(run("stack", "--driver", "--json"))
        known = "kind format taken missing comments bytes file profile"
        assert set(known.split()) <= profile.keys()
        assert {"name", "state"} <= as_json(run("kill", "m1", "--json"))["machines"][0].keys()
        session.shutdown()
        (told,) = as_json(run("ls", "--json"))["sessions"]
        assert told["ended"].keys() == {"at", "why", "text"}
        assert {"cause", "text", "stopped"} <= told["machines"][0].keys()

    def test_a_disk_that_takes_no_profile(self, run: Run, session: Session, machine: Machine, tmp_path: Path) -> None:
        code, _, err = run("stack", "--out", str(tmp_path / "no" / "where.txt"))
        assert code == 1
        assert "could not be written" in err

    def test_stack(self, run: Run, session: Session, machine: Machine, tmp_path: Path) -> None:
        code, out, _ = run("stack", "--driver")
        assert code == 0
        assert "driver:" in out
        told = as_json(run("stack", "--out", str(tmp_path / "all.folded"), "--driver", "--json"))
        assert (told["format"], "driver" in told["taken"]) == ("folded", True)
        assert (tmp_path / "all.folded").stat().st_size == told["bytes"]
        assert os.listdir(tmp_path).count("all.folded") == 1

    def test_a_session_that_is_not_to_be_found_is_not(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        with Session.open(InprocessSystem(), control=False):
            assert as_json(run("ls", "--json")) == {"sessions": []}

    @pytest.mark.parametrize(
        ("kind", "why", "text"),
        [
            (None, "finished", "left the session's block"),
            (KeyError("x"), "error", "KeyError: 'x'"),
            (KeyboardInterrupt(), "interrupted", "Ctrl-C"),
            (SystemExit(3), "exit", "sys.exit(3)"),
        ],
    )
    def test_why_it_ended_is_told(self, run: Run, kind: BaseException | None, why: str, text: str) -> None:
        with contextlib.suppress(KeyError, KeyboardInterrupt, SystemExit), Session.open(InprocessSystem()):
            if kind is not None:
                raise kind
        (told,) = as_json(run("ls", "--json"))["sessions"]
        assert told["ended"]["why"] == why
        assert text in told["ended"]["text"]


def test_where_no_folder_can_be_made_a_session_begins_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    with Session.open(InprocessSystem()) as session:
        assert session._presence is None
