"""An interpreter started by `interpreter_args` has the flags of this one, and nothing to run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bigmachine.errors import ImageError
from bigmachine.image import interpreter_args
from bigmachine.image.interpreter import CommandLine, given_warnings, parse_command_line
from tests.cluster.image.conftest import Lab

#: What an interpreter was told, without what it was told to run.
STATE = (
    "import json, sys, _imp;"
    "print(json.dumps([list(sys.flags), sys.warnoptions, sys._xoptions, _imp.check_hash_based_pycs,"
    " sys.stdout.write_through]))"
)

FLAGS = [
    [],
    ["-O"],
    ["-OO", "-B", "-u"],
    ["-Bu", "-W", "error::DeprecationWarning", "-Wignore:x"],
    ["-X", "dev"],
    ["-X", "dev", "-b", "-W", "error"],
    ["-bb"],
    ["-I"],
    ["-E", "-s", "-P"],
    ["-X", "utf8=1", "-X", "int_max_str_digits=5000", "-X", "no_debug_ranges"],
    ["-X", "pycache_prefix=/proc/nowhere", "-X", "warn_default_encoding", "-W", "ignore"],
    ["-q", "-S", "--check-hash-based-pycs", "never"],
]


def environ(lab: Lab) -> dict[str, str]:
    kept = lab.environ("driver")
    del kept["PYTHONDONTWRITEBYTECODE"]
    return kept


def ask(command: list[str], code: str, env: dict[str, str]) -> list[object]:
    done = subprocess.run([*command, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_the_equal_interpreter_is_equal(lab: Lab, flags: list[str]) -> None:
    env = environ(lab)
    source = env["PYTHONPATH"]
    telling = f"import sys; sys.path.append({source!r}); from bigmachine.image import interpreter_args; import json;"
    command = ask([sys.executable, *flags], telling + "print(json.dumps(interpreter_args()))", env)
    assert command[0] == sys.executable
    assert ask([str(part) for part in command], STATE, env) == ask([sys.executable, *flags], STATE, env)


def test_a_prompt_and_what_was_to_be_run_are_not_passed_on(lab: Lab) -> None:
    lab.write("app.py")
    driver = lab.driver("-i", "-u", "app.py", "-O")
    assert driver.interpreter == [sys.executable, "-B", "-u"]


def test_a_program_that_emptied_its_warning_options_is_no_trouble() -> None:
    assert given_warnings([], bytes_warning=2, dev_mode=True) == []


def test_the_implied_warning_options_are_left_out_once() -> None:
    options = ["default", "default", "error::BytesWarning", "ignore"]
    assert given_warnings(options, bytes_warning=2, dev_mode=True) == ["default", "ignore"]


@pytest.mark.parametrize(
    ("argv", "letters", "target", "rest"),
    [
        ([], "", None, ()),
        (["python"], "", "-", ()),
        (["python", "-"], "", "-", ()),
        (["python", "app.py", "-u"], "", "app.py", ("-u",)),
        (["python", "-u", "app.py"], "u", "app.py", ()),
        (["python", "-uBm", "pkg"], "uB", "-m", ("pkg",)),
        (["python", "-mpkg", "-u", "x"], "", "-m", ("pkg", "-u", "x")),
        (["python", "--", "app.py", "--", "x"], "", "app.py", ("--", "x")),
        (["python", "-Wu", "app.py"], "", "app.py", ()),
        (["python", "-W", "u", "-c", "-u"], "", "-c", ("-u",)),
        (["python", "-Xu", "-ccode"], "", "-c", ("code",)),
        (["python", "-BX", "dev", "app.py"], "B", "app.py", ()),
        (["python", "--", "-u"], "", "-u", ()),
        (["python", "--"], "", "-", ()),
        (["python", "--check-hash-based-pycs", "never", "-u", "app.py"], "u", "app.py", ()),
        (["python", "--help-all", "app.py"], "", "app.py", ()),
    ],
)
def test_a_command_line_is_read_as_the_interpreter_reads_it(
    argv: list[str], letters: str, target: str | None, rest: tuple[str, ...]
) -> None:
    assert parse_command_line(argv) == CommandLine(frozenset(letters), target, rest)


def test_an_embedded_or_frozen_program_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ImageError, match=r"embeds Python.*Image\(python="):
        interpreter_args()
    monkeypatch.setattr(sys, "executable", "/opt/app")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ImageError, match=r"frozen program /opt/app"):
        interpreter_args()
