"""Packages that are installed as a pointer to their source, and `.pth` files.

An editable install (PEP 660) leaves its metadata in site-packages and, instead of the code, one of: a `.pth` file with
the path of the source; a `.pth` file that imports a finder which knows where each top-level name is; or a finder that
also rebuilds the package when it is imported, which no machine could do without the build's tools. The first two
become trees and lines of the search path; of the third there is an error that says what to do.

Which of them it is, is found out from what is installed, not from the build backend's name; what no rule knows is
looked for as Python itself would (`find_spec`).
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import unquote, urlparse

from bigmachine.errors import ImageError
from bigmachine.image.scan.record import Row, named, names_of, rows

#: Finders that build the package when it is imported, by what is in them.
_REBUILDING = {"MesonpyMetaFinder": "meson-python", "ScikitBuildRedirectingFinder": "scikit-build-core"}

_MAP_MODULE = re.compile(r"""map_module\(\s*(['"])(?P<name>[\w.]+)\1\s*,\s*(?P<path>(['"]).*?\4)\s*\)""")
_FINDER_FILE = re.compile(r"(__editable__.*\.(py|pth)|_.*editable.*\.(py|pth)|.*-editable\.pth)$")


class Editable(NamedTuple):
    """An editable install: the names to leave out of its layer, and where each importable name is (absolute)."""

    info: str
    left_out: frozenset[str]
    tops: tuple[tuple[str, str], ...]


class PthFile(NamedTuple):
    """A `.pth` file: its name and its lines that mean something."""

    name: str
    lines: tuple[str, ...]

    def is_portable(self, site: str) -> bool:
        """Whether it means the same in another environment: it imports, or names folders of its own site-packages."""
        return all(_is_import(line) or (not os.path.isabs(line) and _stays(site, line)) for line in self.lines)


def _is_import(line: str) -> bool:
    return line.startswith(("import ", "import\t"))


def _stays(site: str, line: str) -> bool:
    return os.path.normpath(os.path.join(site, line)).startswith(site + os.sep)


def pth_files(site: str, names: Iterable[str]) -> list[PthFile]:
    """Read the `.pth` files among the names of a site-packages directory, in the order in which `site` reads them."""
    found = []
    for name in sorted(names):
        if name.endswith(".pth") and not name.startswith("."):
            lines = (line.rstrip() for line in _text(os.path.join(site, name)).splitlines())
            found.append(PthFile(name, tuple(line for line in lines if line.strip() and not line.startswith("#"))))
    return found


def imported_by(line: str) -> str | None:
    """Return the top-level name of the module that a `.pth` line imports first; None if it is a path."""
    match = re.match(r"import[ \t]+(\w+)", line)
    return match.group(1) if match else None


def editable(site: str, info: str) -> Editable | None:
    """Return what is known of a distribution if it is installed editable, or None.

    Raises:
        ImageError: if it is one that is rebuilt when it is imported.
    """
    if not _is_editable(_text(os.path.join(site, info, "direct_url.json"))):
        return None
    name = named(info)[0]
    own = [row for row in rows(_text(os.path.join(site, info, "RECORD")), name) if "/" not in row.path]
    left_out = frozenset(row.path for row in own if row.path.endswith(".pth") or _FINDER_FILE.match(row.path))
    return Editable(info, left_out, tuple(sorted(_tops(site, info, name, own).items())))


def _is_editable(direct_url: str) -> bool:
    """Read direct_url.json (PEP 610)."""
    try:
        told = json.loads(direct_url) if direct_url else {}
    except ValueError:
        return False
    about = told.get("dir_info") if isinstance(told, dict) else None
    return isinstance(about, dict) and about.get("editable") is True


def source_folder(direct_url: str) -> str | None:
    """Return the folder that a direct_url.json names, or None."""
    try:
        url = urlparse(json.loads(direct_url)["url"])
    except (ValueError, KeyError, TypeError):
        return None
    return unquote(url.path) if url.scheme == "file" else None


def _tops(site: str, info: str, name: str, own: Iterable[Row]) -> dict[str, str]:
    found: dict[str, str] = {}
    has_path = False
    for row in own:
        text = _text(os.path.join(site, row.path))
        if row.path.endswith(".py"):
            for finder, backend in _REBUILDING.items():
                if finder in text:
                    raise ImageError(
                        f"scan: {name} is installed editable by {backend}, which builds it again whenever it is "
                        f"imported; a machine cannot. Install it without -e (pip install {_folder(site, info, name)}), "
                        f"or leave it here: Image(without=[{name!r}])"
                    )
            found |= _mapping(text)
        elif row.path.endswith(".pth"):
            has_path |= any(not _is_import(line) for line in text.splitlines() if line.strip())
    if not found and not has_path:
        found = _looked_up(
            names_of(_text(os.path.join(site, info, "top_level.txt")).splitlines()) or (name.replace("-", "_"),)
        )
    return {top: path for top, path in ((top, _existing(path)) for top, path in found.items()) if path is not None}


def _folder(site: str, info: str, name: str) -> str:
    return source_folder(_text(os.path.join(site, info, "direct_url.json"))) or name


def _mapping(finder: str) -> dict[str, str]:
    """Read which name is where from a finder of setuptools (`MAPPING = {...}`) or of editables (`map_module(...)`)."""
    found = {each["name"]: ast.literal_eval(each["path"]) for each in _MAP_MODULE.finditer(finder)}
    try:
        statements = ast.parse(finder).body
    except (SyntaxError, ValueError):
        return found
    for statement in statements:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "MAPPING" for target in targets):
            try:
                value = ast.literal_eval(statement.value)  # type: ignore[attr-defined] # both kinds have one
            except (ValueError, TypeError):
                continue
            found |= {str(top): str(path) for top, path in value.items()} if isinstance(value, dict) else {}
    return found


def _existing(path: str) -> str | None:
    # setuptools names a module without its suffix.
    endings = ("", ".py", *importlib.machinery.EXTENSION_SUFFIXES)
    return next((path + ending for ending in endings if os.path.exists(path + ending)), None)


def _looked_up(tops: Iterable[str], find: Callable[[str], object] = importlib.util.find_spec) -> dict[str, str]:
    found = {}
    for top in tops:
        try:
            spec = find(top)
        except (ImportError, ValueError):
            continue
        places = list(getattr(spec, "submodule_search_locations", None) or ())
        origin = places[0] if places else getattr(spec, "origin", None)
        if isinstance(origin, str) and os.path.exists(origin):
            found[top] = origin
    return found


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


__all__ = ["Editable", "PthFile", "editable", "imported_by", "pth_files", "source_folder"]
