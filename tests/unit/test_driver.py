"""The flags of a program, and what a session is started with because of them."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import bigmachine
from bigmachine import config, driver
from bigmachine.config import ConfigError
from bigmachine.errors import InvalidCall


class Started:
    """Stands where a session would start: remembers the system's name and options, and the session's name."""

    def __init__(self) -> None:
        self.systems: list[tuple[str, dict[str, object]]] = []
        self.sessions: list[tuple[object, str]] = []
        self.settings: list[config.Settings] = []

    def create(self, name: str, options: Mapping[str, object]) -> object:
        if name == "nowhere":
            raise LookupError("no such system")
        self.systems.append((name, dict(options)))
        return f"system {name}"

    def start(self, system: object = None, *, name: str = "") -> object:
        self.sessions.append((system, name))
        return f"session on {system}"

    def open(
        self,
        system: object,
        name: str,
        settings: config.Settings,
        output: object = None,
        events: object = None,
        *,
        is_ours: bool,
    ) -> object:
        assert is_ours
        self.settings.append(settings)
        return self.start(system, name=name)


@pytest.fixture(autouse=True)
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    """A place where nothing is configured and no session really starts."""
    fake = Started()
    for variable in ("SYSTEM", "OUTPUT", "EVENTS", "EC2TYPE", "EC2ONDEMAND", "HOSTS", "SSH_CONFIG", "MODE"):
        monkeypatch.delenv(f"BIGMACHINE_{variable}", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prog.py"])
    monkeypatch.setattr("bigmachine.system.create", fake.create)
    monkeypatch.setattr(bigmachine, "start", fake.start)
    monkeypatch.setattr("bigmachine.session.open_session", fake.open)
    return fake


def parser() -> argparse.ArgumentParser:
    """A user's program with flags of its own."""
    own = argparse.ArgumentParser(prog="prog.py", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    own.add_argument("-n", type=int, default=7)
    own.add_argument("--system")
    own.add_argument("file", nargs="?")
    driver.add_flags(own)
    return own


class TestFlags:
    def test_they_stand_beside_the_program_s_own(self, started: Started) -> None:
        args = parser().parse_args(
            ["-n", "3", "--bigm.system=ec2", "--system", "mine", "--bigm.ec2type", "c5.large", "in.txt"]
        )
        assert (args.n, args.system, args.file) == (3, "mine", "in.txt")
        driver.start(args, name="x")
        assert started.systems == [("ec2", {"type": "c5.large", "ondemand": False})]
        assert started.sessions == [("system ec2", "x")]

    def test_a_flag_that_is_not_given_says_nothing(self, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BIGMACHINE_SYSTEM", "inprocess")
        args = parser().parse_args([])
        assert args.bigm_system is None
        driver.start(args)
        assert started.systems == [("inprocess", {})]

    def test_a_flag_goes_before_the_environment(self, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BIGMACHINE_SYSTEM", "inprocess")
        driver.start(parser().parse_args(["--bigm.system", "local"]))
        assert started.systems == [("local", {})]

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--bigm.ec2ondemand"], True),
            (["--bigm.ec2ondemand=true"], True),
            (["--bigm.ec2ondemand=false"], False),
            ([], False),
        ],
    )
    def test_a_switch_may_stand_alone_or_with_its_value(
        self, started: Started, words: list[str], expected: bool
    ) -> None:
        driver.start(parser().parse_args(["--bigm.system=ec2", *words]))
        assert started.systems[0][1]["ondemand"] is expected

    def test_what_holds_for_any_system_reaches_the_session(self, started: Started) -> None:
        driver.start(parser().parse_args(["--bigm.limit=1000", "--bigm.threads", "3"]))
        assert (started.settings[0].limit, started.settings[0].threads) == (1000, 3)

    def test_the_name_of_a_system_is_no_parsed_arguments(self) -> None:
        with pytest.raises(InvalidCall, match=r"bigmachine\.start"):
            driver.start("inprocess")  # type: ignore[arg-type]  # that is the point

    def test_hosts_are_separated_by_commas(self, started: Started) -> None:
        driver.start(parser().parse_args(["--bigm.system=ssh", "--bigm.hosts=a,b:22", "--bigm.ssh-config=c"]))
        assert started.systems == [("ssh", {"hosts": ["a", "b:22"], "config": "c"})]

    def test_a_bad_value_ends_the_program_as_argparse_does(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            parser().parse_args(["--bigm.ec2ondemand", "in.txt"])
        assert "'in.txt' is neither true nor false" in (text := capsys.readouterr().err)
        assert "write --bigm.ec2ondemand=true" in text
        with pytest.raises(SystemExit, match="2"):
            parser().parse_args(["--bigm.ec2life", "in.txt"])
        assert capsys.readouterr().err.endswith("--bigm.ec2life: 'in.txt' is no integer\n")

    def test_help_shows_each_with_its_default(self) -> None:
        text = parser().format_help()
        for flag in ("system", "ec2type", "ec2ondemand", "hosts", "ssh-config"):
            assert f"--bigm.{flag}" in text
        assert "(default: local)" in text
        assert "(default: m3.medium)" in text
        assert "(default: None)" not in text.partition("bigmachine:")[2]


class TestCommandLine:
    """Without `args` the flags are picked out of `sys.argv`."""

    def test_words_of_others_are_left_alone(self, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
        words = ["prog.py", "-b", "--bigm.system", "ec2", "-f", "x", "--bigm.ec2ondemand", "in.txt", "--", "-h"]
        monkeypatch.setattr(sys, "argv", list(words))
        driver.start()
        assert started.systems == [("ec2", {"type": "m3.medium", "ondemand": True})]
        assert sys.argv == words

    def test_what_follows_two_dashes_is_no_flag(self, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["prog.py", "--", "--bigm.system=ec2", "--bigm.nothing"])
        driver.start()
        assert started.systems == [("local", {})]

    def test_help_is_the_program_s_business(self, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["prog.py", "--help", "--bigm.system=inprocess"])
        driver.start()
        assert started.systems == [("inprocess", {})]

    def test_a_misspelt_flag_ends_the_program(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["prog.py", "--bigm.sytem=ec2"])
        with pytest.raises(SystemExit, match="2"):
            driver.start()
        assert "no flag --bigm.sytem=ec2: did you mean --bigm.system?" in capsys.readouterr().err

    def test_given_args_are_the_whole_truth(self, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["prog.py", "--bigm.system=ec2"])
        driver.start(parser().parse_args([]))
        assert started.systems == [("local", {})]


def test_the_file_counts(started: Started, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.bigmachine]\nsystem = 'inprocess'\n")
    driver.start()
    assert started.systems == [("inprocess", {})]


def test_an_unknown_system_tells_who_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGMACHINE_SYSTEM", "nowhere")
    with pytest.raises(LookupError) as caught:
        driver.start()
    assert "BIGMACHINE_SYSTEM" in caught.value.__notes__[0]


def test_a_machine_asks_nobody(started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bigmachine.toml").write_text("broken")
    with pytest.raises(ConfigError):
        driver.start()
    monkeypatch.setattr(bigmachine, "is_driver", lambda: False)
    monkeypatch.setattr(sys, "argv", ["prog.py", "--bigm.nothing"])
    driver.start(name="x")
    assert started.sessions == [(None, "x")]


def test_a_program_that_a_machine_starts_is_a_driver_of_its_own(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIGMACHINE_MODE", "machine")
    monkeypatch.setattr(sys, "argv", ["prog.py", "--bigm.system=inprocess"])
    driver.start()
    assert started.systems == [("inprocess", {})]


def test_importing_it_loads_no_argparse() -> None:
    program = "import sys, bigmachine.driver; sys.exit(len({'argparse', 'tomllib', 'difflib'} & set(sys.modules)))"
    source = str(Path(driver.__file__).parents[1])
    ran = subprocess.run([sys.executable, "-S", "-c", program], env={"PYTHONPATH": source}, check=False)
    assert ran.returncode == 0
