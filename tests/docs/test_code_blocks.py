"""What the documents show works: programs run, commands say what is printed below them, settings are settings."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from bigmachine import config
from tests.cluster.programs import RunProgram
from tests.docs.blocks import ROOT, Block, blocks

#: What differs from run to run in what a command says.
_VARIES = re.compile(r"\d+|h[0-9a-f]{6}")


def test_there_are_blocks_of_each_kind() -> None:
    for language in ("python", "console", "toml", "sh"):
        assert blocks(language), language


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_program_runs(run_program: RunProgram, tmp_path: Path, block: Block) -> None:
    path = tmp_path / "test_block.py"
    path.write_text(block.text)
    if "def test_" in block.text:
        run_program("-m", "pytest", "-q", "-p", "no:cacheprovider", path)
        return
    said = run_program(path, *block.arguments).out.splitlines()
    # A comment behind a print begins with what it prints.
    shown = re.findall(r"^ *print\(.*\) +# (.+)$", block.text, re.MULTILINE)
    assert [line for line, comment in zip(said, shown, strict=False) if not comment.startswith(line)] == []
    assert len(said) >= len(shown)


@pytest.mark.parametrize("block", blocks("console"), ids=str)
def test_a_command_says_what_is_shown(run_program: RunProgram, block: Block) -> None:
    for session in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, *shown = session.splitlines()
        python, *arguments = shlex.split(command)
        assert python == "python", f"{block}: only python is run here"
        outcome = run_program(*arguments, cwd=ROOT)
        said = {_VARIES.sub("#", line) for line in (outcome.out + outcome.err).splitlines()}
        assert [line for line in shown if _VARIES.sub("#", line) not in said] == []


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings_are_accepted(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text(block.text)
    monkeypatch.chdir(tmp_path)
    for option in config.OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)
    assert config.load().system == tomllib.loads(block.text)["tool"]["bigmachine"]["system"]


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_targets_of_make_exist(block: Block) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", block.text, re.MULTILINE)) <= set(targets)


@pytest.mark.parametrize("option", config.OPTIONS, ids=lambda option: option.key)
def test_the_readme_names_each_flag_and_variable(option: config.Option) -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"`{option.flag}` | `{option.variable}` | `{option.key}`" in readme
