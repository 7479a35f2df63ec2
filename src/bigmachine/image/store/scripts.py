"""The scripts in an environment's `bin`: those made from entry points, and others that name an interpreter.

Both begin with a line that says what runs them, and that is the image's own interpreter. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

#: Linux takes no more of a script's first line.
_SHEBANG: Final = 127
_ENTRY: Final = re.compile(r"(?P<module>[\w.]+)\s*:\s*(?P<attribute>[\w.]+)(?:\s*\[.*\])?\s*")
#: What an installer makes of `#!python`: the line itself, or, where that could not be, three for a shell.
_PYTHON: Final = re.compile(rb"#!\S*python[\d.]*w?(?P<options>(?: [^\n]*)?)\r?\n")
_BY_SHELL: Final = re.compile(
    rb"#!/bin/sh\n'''exec' [^\n]*python[\d.]*\"? (?P<options>[^\n]*?) ?\"\$0\" \"\$@\"\n' '''\n"
)


def first_lines(interpreter: str, options: str = "") -> str:
    """Give the lines with which a script says that this interpreter (absolute) runs it."""
    line = f"#!{interpreter}{options and ' '}{options}\n"
    if len(line) > _SHEBANG or " " in interpreter:
        return f"#!/bin/sh\n'''exec' \"{interpreter}\" {options}{options and ' '}\"$0\" \"$@\"\n' '''\n"
    return line


def generated(entry_points: str, interpreter: str) -> Iterator[tuple[str, str]]:
    """Give name and text of the scripts that installers make from a distribution's entry_points.txt."""
    import configparser  # mostly there is nothing to make

    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names are not to be lowered
    try:
        parser.read_string(entry_points)
    except configparser.Error:
        return  # the installer would not have made scripts either
    for section in ("console_scripts", "gui_scripts"):
        for name, target in parser.items(section) if parser.has_section(section) else ():
            match = _ENTRY.fullmatch(target)
            if match is not None and "/" not in name and name not in (".", ".."):
                yield name, _text(interpreter, match["module"], match["attribute"])


def _text(interpreter: str, module: str, attribute: str) -> str:
    top = attribute.partition(".")[0]
    return (
        f"{first_lines(interpreter)}import sys\nfrom {module} import {top}\n\nif __name__ == '__main__':\n"
        f"    sys.argv[0] = sys.argv[0].removesuffix('.exe')\n    sys.exit({attribute}())\n"
    )


def adapted(script: bytes, interpreter: str) -> bytes | None:
    """Give a script for this interpreter that another environment's Python would run; None if it is none."""
    match = _BY_SHELL.match(script) or _PYTHON.match(script)
    if match is None:
        return None
    options = match["options"].strip().decode("utf-8", "surrogateescape")
    return first_lines(interpreter, options).encode("utf-8", "surrogateescape") + script[match.end() :]


__all__ = ["adapted", "first_lines", "generated"]
