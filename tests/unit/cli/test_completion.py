"""What shells complete: commands, options, machines of sessions that run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bigmachine.cli.commands import COMMANDS
from bigmachine.cli.completion import words
from bigmachine.cli.main import main
from bigmachine.session import register
from bigmachine.session.register import Record


@pytest.fixture(autouse=True)
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """A session of this process, as the register has it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    states = ("m1", "RUNNING"), ("m10", "RUNNING"), ("m2", "STARTING"), ("m3", "STOPPED")
    record = Record(
        "cafe1234",
        os.getpid(),
        register.born(os.getpid()),
        register.here(),
        machines=[{"name": name, "state": state} for name, state in states],
    )
    register.save(register.made_folder(), record)
    return record


def test_first_comes_a_command() -> None:
    assert words([]) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_completes_its_options(command: str) -> None:
    assert "--help" in words([command])


def test_machines_that_are_there_are_completed_where_machines_are_wanted() -> None:
    assert words(["pdb"])[:3] == ["m1", "m2", "m10"]
    assert words(["stack", "--machine"]) == ["m1", "m2", "m10"]
    assert words(["cp", "data.bin"])[:3] == ["m1:", "m2:", "m10:"]
    assert "m1" not in words(["ls"])


def test_sessions_are_completed() -> None:
    assert words(["shell", "--session"]) == ["cafe1234"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_what_their_shells_understand(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "bigmachine completion words" in script
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    assert subprocess.run([program, "-n"], input=script.encode(), check=False).returncode == 0


def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    main(["completion", "bash"])
    beside = tmp_path / "bigmachine-command"
    beside.mkdir()
    command = beside / "bigmachine"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m bigmachine "$@"\n')
    command.chmod(0o755)
    script = (
        capsys.readouterr().out
        + 'COMP_WORDS=(bigmachine shell m1); COMP_CWORD=2; _bigmachine; echo "${COMPREPLY[@]}"\n'
    )
    environ = {**os.environ, "PATH": f"{beside}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([bash, "-c", script], env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "m1 m10\n", done.stderr


def test_after_an_option_comes_its_value() -> None:
    assert words(["profile", "--format"]) == ["pprof", "folded", "speedscope", "svg", "text"]
    assert words(["profile", "--seconds"]) == []  # not a machine, nor an option
    assert "--native" in words(["profile", "--idle"])


def test_where_numbers_are_wanted_no_machine_is_completed() -> None:
    assert "m1" not in words(["vars"])
    assert words(["timeline"])[:3] == ["m1", "m2", "m10"]


def test_what_shells_ask_for_is_not_offered_to_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert words(["completion"])[-3:] == ["bash", "zsh", "fish"]
    with pytest.raises(SystemExit):
        main(["completion"])
    assert capsys.readouterr().err.endswith("required: {bash,zsh,fish}\n")


@pytest.mark.skipif(not shutil.which("zsh"), reason="there is no zsh here")
def test_zsh_completes_from_a_file_at_the_first_tab(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "zsh"])
    (tmp_path / "_bigmachine").write_text(capsys.readouterr().out)
    # As compinit has it: the file is the function, loaded when it is called.
    script = "fpath=($PWD); autoload _bigmachine; compadd() { echo added }; _bigmachine"
    done = subprocess.run(
        ["zsh", "-f", "-c", script], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=20
    )
    assert (done.stdout, done.returncode) == ("added\n", 0), done.stderr
