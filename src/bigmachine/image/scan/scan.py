"""Scan the running program into an image: what it is made of, by name, without sending or copying anything.

The module search path says what the program can import, so the scan follows it, not "the environment": the system's
packages, the user's, those of a virtual environment and those on `PYTHONPATH` come out in the order in which Python
finds them. The standard library is the interpreter's. What is found is remembered, so that a second scan costs a
`stat` for each file (`bigmachine.image.scan.cache`).
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import sysconfig
import zipfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import bigmachine
from bigmachine.image.entry import Entry
from bigmachine.image.image import Image
from bigmachine.image.manifest import Manifest, Platform
from bigmachine.image.platforms import takes, this_platform
from bigmachine.image.scan import record
from bigmachine.image.scan.cache import cache_directory
from bigmachine.image.scan.conda import conda_layers
from bigmachine.image.scan.editable import imported_by
from bigmachine.image.scan.placed import Placed
from bigmachine.image.scan.roots import Roots, editable_roots
from bigmachine.image.scan.scanned import Scan
from bigmachine.image.scan.sites import SiteScan, is_site, scan_site, without_shadowed
from bigmachine.image.scan.trees import Tree
from bigmachine.image.search import search_path

_log = logging.getLogger("bigmachine.image")


def scan(
    entry: Entry,
    *,
    image: Image | None = None,
    target: Platform | None = None,
    path: Sequence[str] | None = None,
    cache_dir: Path | None = None,
    distrusted: Collection[str] = (),
) -> Scan:
    """Scan the running program.

    `image` says what goes besides, and what stays. `target` is the machine's platform; None: one like ours. `path` is
    the search path (default: the program's own), `cache_dir` where scans are remembered (default: the user's cache).
    `distrusted` are paths of files to be read whatever is remembered or recorded of them: a sender names those whose
    content was not what a scan said.

    Raises:
        ImageError: A file or folder cannot be read, a package cannot be sent as it is installed, or one cannot be had
            for the target's platform.
    """
    image = image or Image()
    cache_dir = cache_dir or cache_directory()
    whole_path = search_path() if path is None else [os.path.abspath(each) for each in path]
    found = [each for each in _distinct(whole_path) if not _is_standard(each)]
    sites = [each for each in found if os.path.isdir(each) and is_site(each)]
    scans = [scan_site(each, cache_dir, without=image.without, distrusted=distrusted) for each in sites]
    _warn_of_unknown(image.without, scans)
    layers = without_shadowed(scans)
    for prefix in dict.fromkeys(record.prefix_of(site) for site in sites):
        layers += conda_layers(prefix, cache_dir, distrusted=distrusted)

    scripts = _scripts(entry, scans)
    rest = [each for each in found if not _is_inside(each, sites) and each not in _script_folders(sites)]
    by_finder, renamed = editable_roots(each for scanned in scans for each in scanned.editables)
    roots = Roots(entry, cache_dir, image.exclude, [os.fspath(each) for each in image.files], distrusted)
    folders = list(dict.fromkeys([*rest, *_of_entry(entry, rest, sites, scripts), *by_finder]))
    roots.add_all(folders, _implicit(entry, whole_path if path is None else ()))
    mounts = [roots.add(tree) for tree in renamed]
    mounts += _with_bigmachine(roots, layers)
    roots.add_files()

    platform = this_platform()
    site = f"lib/python{(target or platform).minor}/site-packages"
    is_foreign = target is not None and not takes(target, platform)
    if is_foreign or image.packages:
        from bigmachine.image.foreign.layers import resolved

        layers = resolved([*layers], roots.placed, target or platform, image, cache_dir)
    if target is not None and is_foreign:
        platform = target

    places = dict.fromkeys(sites, site) | roots.places
    added = [place for each in by_finder if (place := roots.find(each)) is not None] + mounts
    manifest = Manifest(
        platform,
        tuple(each.layer for each in (*layers, *roots.placed)),
        tuple(dict.fromkeys([*_search_path(found, sites, roots), *added])),
        tuple(_pth(scans, sites, site, roots, layers)) + tuple(f"{{root}}/{place}" for place in added),
    )
    return Scan(manifest, (*layers, *roots.placed), places, cache_dir, scripts)


def _warn_of_unknown(without: Iterable[str], scans: Iterable[SiteScan]) -> None:
    """Tell of names that were to be left out and that nothing has: programs may run where they are not installed."""
    known = frozenset[str]().union(*(each.names for each in scans))
    for name in without:
        if (normal := record.normalized(name)) not in known:
            from difflib import get_close_matches

            near = get_close_matches(normal, known, n=3)
            hint = f"; there is {', '.join(near)}" if near else ": see `pip list` for what there is"
            _log.warning("Image(without=[%r]) leaves nothing out, since no such package is installed%s", name, hint)


def _distinct(path: Iterable[str]) -> list[str]:
    """Return what is there, and each only once: environments have `lib64` as a link to `lib`, and both on the path."""
    return list({os.path.realpath(each): each for each in reversed(list(path)) if os.path.exists(each)}.values())[::-1]


@functools.cache
def _interpreters_own(kind: str) -> str:
    """Return a folder of the interpreter's (`sysconfig`): it is worked out anew each time, in 0.1 ms."""
    return sysconfig.get_path(kind)


def _is_standard(path: str) -> bool:
    """Whether it is the interpreter's own library, which is no part of the image."""
    places = [_interpreters_own("stdlib"), _interpreters_own("platstdlib")]
    version = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    return os.path.basename(path) == version or any(path in (place, f"{place}/lib-dynload") for place in places)


def _is_inside(path: str, folders: Iterable[str]) -> bool:
    return any(f"{path}/".startswith(f"{folder}/") for folder in folders)


def _script_folders(sites: Iterable[str]) -> set[str]:
    """Return where environments keep their scripts: on the search path of a console script, and nobody's project."""
    return {_interpreters_own("scripts"), *(f"{record.prefix_of(site)}/bin" for site in sites)}


def _scripts(entry: Entry, scans: Iterable[SiteScan]) -> dict[str, str]:
    """Return where the program's main is in the image, if it is a script that a machine makes from entry points."""
    path = entry.path
    if path is None or os.path.dirname(path) not in _script_folders(scan.path for scan in scans):
        return {}
    name = os.path.basename(path)
    for scanned in scans:
        for placed in scanned.placed:
            for file, source in zip(placed.layer.files, placed.sources, strict=True):
                if file.path.endswith("-info/entry_points.txt"):
                    with open(source, encoding="utf-8", errors="surrogateescape") as opened:
                        if record.is_generated(name, record.script_names(opened.read())):
                            return {path: f"bin/{name}"}
    return {}


def _of_entry(entry: Entry, path: Collection[str], sites: Collection[str], scripts: Collection[str]) -> list[str]:
    """Return the folder of a main that lies on no path: that of `Image(program=...)`, or of a launcher's program."""
    if entry.path is None or entry.path in scripts or _is_inside(entry.path, sites):
        return []
    is_folder_or_archive = os.path.isdir(entry.path) or zipfile.is_zipfile(entry.path) or entry.path in path
    return [entry.path if is_folder_or_archive else os.path.dirname(entry.path)]


def _implicit(entry: Entry, path: Sequence[str]) -> set[str]:
    """Return the folders that are on the program's search path, or beside it, and that nobody put there."""
    found = set()
    if entry.path is not None and not os.path.isdir(entry.path):
        found |= {os.path.dirname(entry.path), os.path.dirname(os.path.realpath(entry.path))}
    else:
        found |= {each for each in (entry.directory, bigmachine._directory) if each}
        found |= {os.path.abspath(each) for each in sys.path if not each}  # where a prompt is now
    given = {os.path.abspath(each) for each in sys.path if each}
    given.add(_own_package()[0])
    return found | {each for each in path if each not in given}


def _own_package() -> tuple[str, str]:
    """Return the folder where our own package is, and its name."""
    return os.path.split(os.path.dirname(os.path.abspath(bigmachine.__file__)))


def _with_bigmachine(roots: Roots, layers: Iterable[Placed]) -> list[str]:
    """Add ourselves, where we are neither installed nor in a tree, and return what that adds to the search path."""
    package = os.path.join(*_own_package())
    is_installed = any(each.layer.name == "bigmachine" and f"{package}/__init__.py" in each.sources for each in layers)
    if is_installed or roots.find(f"{package}/__init__.py") is not None:
        return []
    return [roots.add(Tree(package, "bigmachine", inside="bigmachine"))]


def _search_path(path: Iterable[str], sites: Sequence[str], roots: Roots) -> Iterable[str]:
    for each in path:
        site = next((site for site in sites if _is_inside(each, [site])), None)
        if site is not None:
            yield f"site{each[len(site) :]}"
        elif (place := roots.find(each)) is not None:
            yield place


def _pth(
    scans: Iterable[SiteScan], sites: Sequence[str], site: str, roots: Roots, layers: Iterable[Placed]
) -> Iterable[str]:
    """Say the `.pth` lines of other places for the image: paths of what it has, and imports of what it has."""
    for scanned in scans:
        for line in scanned.pth:
            module = imported_by(line)
            if module is not None:
                if module in sys.stdlib_module_names or _has(module, [*layers, *roots.placed]):
                    yield line
                continue
            folder = os.path.normpath(os.path.join(scanned.path, line))
            inside = next((each for each in sites if _is_inside(folder, [each])), None)
            place = roots.find(folder) if inside is None else f"{site}{folder[len(inside) :]}"
            if place is not None:
                yield f"{{root}}/{place}"


def _has(module: str, placed: Iterable[Placed]) -> bool:
    """Whether a top-level module is in one of these layers."""
    starts = (f"site/{module}/", f"site/{module}.", f"{module}/", f"{module}.")
    return any(file.path.startswith(starts) for each in placed for file in each.layer.files)


__all__ = ["scan"]
