"""Scripts are run by the image's own interpreter, whatever they were written for."""

from __future__ import annotations

import pytest

from bigmachine.image.store.scripts import adapted, first_lines, generated

PYTHON = "/images/a/bin/python"
LONG = f"/{'long/' * 30}bin/python"


def test_scripts_are_made_of_entry_points_that_are_functions() -> None:
    text = (
        "[console_scripts]\ntool = pkg.cli:Main.run [extra]\nUPPER=pkg:main\n../out = pkg:main\nbroken = pkg\n"
        "[gui_scripts]\nwindow = pkg:show\n[pytest11]\nplugin = pkg:main\n"
    )
    made = dict(generated(text, PYTHON))
    assert list(made) == ["tool", "UPPER", "window"]
    assert made["tool"].startswith(f"#!{PYTHON}\n")
    assert "from pkg.cli import Main\n" in made["tool"]
    assert "sys.exit(Main.run())" in made["tool"]
    for script in made.values():
        compile(script, "script", "exec")


def test_entry_points_that_cannot_be_read_make_no_scripts() -> None:
    assert list(generated("no section = x:y\n", PYTHON)) == []


@pytest.mark.parametrize("interpreter", [LONG, "/with a space/bin/python"])
def test_a_shell_starts_what_no_first_line_can_name(interpreter: str) -> None:
    lines = first_lines(interpreter, "-s")
    assert lines.startswith("#!/bin/sh\n")
    assert f'"{interpreter}" -s "$0" "$@"' in lines
    compile(lines, "script", "exec")


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (b"#!/home/me/venv/bin/python\n", f"#!{PYTHON}\n"),
        (b"#!/home/me/venv/bin/python3.11 -sE\r\n", f"#!{PYTHON} -sE\n"),
        (first_lines(LONG).encode(), f"#!{PYTHON}\n"),
        (first_lines(LONG, "-s").encode(), f"#!{PYTHON} -s\n"),
    ],
)
def test_a_script_of_another_environments_python_is_for_this_one(first: bytes, expected: str) -> None:
    assert adapted(first + b"print(1)\n", PYTHON) == expected.encode() + b"print(1)\n"


@pytest.mark.parametrize("script", [b"#!/bin/sh\necho python\n", b"#!/usr/bin/perl\n", b"\x7fELF", b"", b"print(1)\n"])
def test_other_scripts_stay_as_they_are(script: bytes) -> None:
    assert adapted(script, PYTHON) is None
