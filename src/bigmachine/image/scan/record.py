"""What an installed distribution says of itself: RECORD, WHEEL and entry_points.txt, read without touching a disk.

A wheel's RECORD lists each of its files with a SHA-256 and a size, so that an environment of gigabytes can be named
without being read. Two installations of one wheel must get the same name, hence what the installer adds by itself is
left out: RECORD, INSTALLER, REQUESTED, direct_url.json, byte code, and the scripts made from entry points.

Where it says a file is: relative to site-packages, with `..` for what lies elsewhere in the environment's prefix. A
layer says `site/`, `bin/` and `data/` instead (`bigmachine.image.manifest`).

The formats: packaging.python.org, "Recording installed projects", "Binary distribution format", "Entry points".
"""

from __future__ import annotations

import base64
import binascii
import configparser
import csv
import io
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from bigmachine.errors import ImageError
from bigmachine.image.manifest import BYTE_CODE_FOLDER

#: Files of a `.dist-info` that the installer writes for itself.
INSTALLERS_OWN = frozenset(
    {
        "RECORD",
        "RECORD.jws",
        "RECORD.p7s",
        "INSTALLER",
        "REQUESTED",
        "direct_url.json",
        "uv_cache.json",
        "uv_build.json",
    }
)


class Row(NamedTuple):
    """A line of RECORD: a path as written there, the content's SHA-256 in hex ("" if not given), its size or -1."""

    path: str
    sha256: str
    size: int


class Tag(NamedTuple):
    """What WHEEL says of where the distribution runs. `is_pure`: everywhere."""

    is_pure: bool
    tags: tuple[str, ...]


def rows(text: str, name: str) -> Iterator[Row]:
    """Read RECORD; `name` is that of the distribution, for the error.

    Raises:
        ImageError: if it is none.
    """
    try:
        for line in csv.reader(io.StringIO(text, newline="")):
            if line:
                path, digest, size = (*line, "", "")[:3]
                yield Row(path, _hex(digest), int(size) if size else -1)
    except (csv.Error, ValueError, binascii.Error) as error:
        raise ImageError(
            f"scan: the RECORD of the installed distribution {name} cannot be read ({error}): install {name} again"
        ) from error


def _hex(digest: str) -> str:
    algorithm, _, value = digest.partition("=")
    if algorithm != "sha256":
        return ""  # none, or another algorithm: the file is read instead
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()


def tag(wheel: str) -> Tag:
    """Read a WHEEL file."""
    fields = [line.partition(":") for line in wheel.splitlines()]
    tags = tuple(value.strip() for key, _, value in fields if key.strip().lower() == "tag")
    says_pure = any(
        key.strip().lower() == "root-is-purelib" and value.strip().lower() == "true" for key, _, value in fields
    )
    return Tag(says_pure and bool(tags) and all(each.endswith("-none-any") for each in tags), tags)


def script_names(entry_points: str) -> frozenset[str]:
    """Return the names of the scripts that an installer makes from an entry_points.txt."""
    parser = configparser.RawConfigParser(delimiters=("=",), strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names keep their case, as the format has it
    try:
        parser.read_string(entry_points)
    except configparser.Error:
        return frozenset()  # importlib.metadata would not find them either
    sections = [parser[name] for name in ("console_scripts", "gui_scripts") if parser.has_section(name)]
    return frozenset(name.strip() for section in sections for name in section)


_VERSIONED = re.compile(r"-?\d+(\.\d+)*$")


def is_generated(script: str, names: Collection[str]) -> bool:
    """Whether a script of that file name is one that an installer makes from entry points of these names."""
    plain = script.removesuffix(".exe").removesuffix("-script.py").removesuffix("-script.pyw")
    # pip installs itself as pip3.11, too, of which its entry points say nothing.
    return plain in names or _VERSIONED.sub("", plain) in names


def is_byte_code(path: str) -> bool:
    """Whether it lies in a `__pycache__`; a `.pyc` elsewhere is a module without source, and part of the program."""
    return BYTE_CODE_FOLDER in path.split("/")


def scheme_path(path: str, site: str, prefix: str) -> str | None:
    """Say where in a layer a file belongs; None if it lies outside of the environment.

    `path` is one of RECORD's, `site` and `prefix` are absolute.
    """
    if not path.startswith(("..", "/")) and "/../" not in path:
        return f"site/{path}"  # nearly all of them, and there are ten thousands
    found = posixpath.normpath(posixpath.join(site, path))
    inside = _inside(found, site)
    if inside is not None:
        return f"site/{inside}"
    inside = _inside(found, prefix)
    if inside is None:
        return None
    first, _, rest = inside.partition("/")
    return f"bin/{rest}" if first in ("bin", "Scripts") and rest else f"data/{inside}"


def _inside(path: str, folder: str) -> str | None:
    start = folder.rstrip("/") + "/"
    return path[len(start) :] if path.startswith(start) else None


def prefix_of(site: str) -> str:
    """Return the prefix of the environment that a site-packages directory belongs to, from its path."""
    match = re.fullmatch(r"(.*?)/lib(?:64|32)?/(?:python|pypy)[^/]*/(?:site|dist)-packages", site)
    return (match.group(1) or "/") if match else posixpath.dirname(site)


def normalized(name: str) -> str:
    """Return a distribution's name as it is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def named(folder: str) -> tuple[str, str]:
    """Return name and version from the name of a `.dist-info` or `.egg-info`."""
    stem = folder.rpartition(".")[0]
    parts = stem.split("-")
    return normalized(parts[0]), parts[1] if len(parts) > 1 else ""


def is_left_out(path: str, info: str, scripts: Collection[str]) -> bool:
    """Whether a file (`scheme_path`) of the distribution with that `.dist-info` folder is no part of its layer."""
    if path.startswith("bin/"):
        return is_generated(path[4:], scripts)
    folder, _, name = path.rpartition("/")
    return (folder == f"site/{info}" and name in INSTALLERS_OWN) or ("__pycache__" in path and is_byte_code(path))


def names_of(lines: Iterable[str]) -> tuple[str, ...]:
    """Read a top_level.txt: one importable name a line."""
    return tuple(line.strip() for line in lines if line.strip())


__all__ = [
    "INSTALLERS_OWN",
    "Row",
    "Tag",
    "is_byte_code",
    "is_generated",
    "is_left_out",
    "named",
    "names_of",
    "normalized",
    "prefix_of",
    "rows",
    "scheme_path",
    "script_names",
    "tag",
]
