"""The site-packages directories on the module search path, as layers.

A later directory's distribution or package that an earlier one shadows is left out as Python does: merged into one
directory, files of two versions would meet.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from bigmachine.image.scan import record
from bigmachine.image.scan.cache import ScanCache
from bigmachine.image.scan.distributions import Site
from bigmachine.image.scan.editable import Editable, editable, pth_files
from bigmachine.image.scan.listing import Listing, listing
from bigmachine.image.scan.placed import Placed, place


class SiteScan(NamedTuple):
    """What one directory has: layers, top-level names, packages that are elsewhere, `.pth` lines to be rewritten.

    `regular` are those of the top-level names that hide the same ones in later directories, `names` those of all its
    distributions, the ones that were left out among them.
    """

    path: str
    placed: list[Placed]
    tops: frozenset[str]
    regular: frozenset[str]
    editables: list[Editable]
    pth: list[str]
    names: frozenset[str]


def is_site(path: str) -> bool:
    """Whether packages are installed in a directory: it is named so, or has a distribution with a RECORD."""
    if os.path.basename(path) in ("site-packages", "dist-packages"):
        return True
    try:
        names = os.listdir(path)
    except OSError:
        return False
    return any(name.endswith(".dist-info") and os.path.exists(f"{path}/{name}/RECORD") for name in names)


def scan_site(
    path: str, cache_dir: Path | None, *, without: Collection[str] = (), distrusted: Collection[str] = ()
) -> SiteScan:
    """Scan one site-packages directory.

    `without` are names of distributions to leave out, `distrusted` paths of files to be read whatever is known of them.

    Raises:
        ImageError: A file or folder cannot be read, or a distribution cannot be sent as it is installed.
    """
    cache = ScanCache(cache_dir, path)
    found = listing(path, cache)
    infos = _infos(found)
    excluded = {info for info in infos if record.named(info)[0] in {record.normalized(name) for name in without}}
    recorded = [info for info in infos if info.endswith(".dist-info") and "RECORD" in found.names(info)]
    editables = [each for info in recorded if info not in excluded and (each := editable(path, info)) is not None]
    files = found.names()
    pth = pth_files(path, files)
    moved = [each for each in pth if not each.is_portable(path)]
    left_out = {each.name for each in moved}.union(*(each.left_out for each in editables))
    site = Site(path, cache, left_out, distrusted)
    units = site.recorded(recorded)
    is_new = found.is_new or any(unit.is_new for unit in units.values())
    rest = None if is_new else site.unrecorded_before()
    if rest is None:
        owned = {source for unit in units.values() for source in unit.placed.sources}
        rest = site.unrecorded(found.files(), owned, _tops(found, infos, recorded))
    cache.forget_unused()
    cache.save()
    gone = {record.named(info) for info in excluded}
    layers = [unit.placed for unit in units.values()] + rest
    by_finder = frozenset[str]().union(*(each.left_out for each in editables if each.tops))
    lines = [line for each in moved if each.name not in by_finder for line in each.lines]
    kept = [each for each in layers if (each.layer.name, each.layer.version) not in gone and each.sources]
    tops = frozenset(map(_top, (*found.folders, *found.names())))
    names = frozenset(record.named(info)[0] for info in infos)
    return SiteScan(path, kept, tops, frozenset(_regular(found)), editables, lines, names)


def _infos(found: Listing) -> list[str]:
    folders = (name for name in found.folders if name.endswith((".dist-info", ".egg-info")))
    return sorted({*folders, *(name for name in found.names() if name.endswith(".egg-info"))})


def _tops(found: Listing, infos: Iterable[str], recorded: Collection[str]) -> dict[str, str]:
    """Say which top-level names belong to the distributions that have no RECORD."""
    owners: dict[str, str] = {}
    for info in infos:
        if info not in recorded:
            owners[info] = info
            for top in _claimed(found.root, info):
                owners[top] = owners[f"{top}.py"] = info
                owners |= {name: info for name in found.names() if name.startswith(f"{top}.") and ".so" in name}
    return owners


def _claimed(path: str, info: str) -> tuple[str, ...]:
    try:
        with open(f"{path}/{info}/top_level.txt", encoding="utf-8", errors="surrogateescape") as file:
            return record.names_of(file)
    except OSError:
        return (record.named(info)[0].replace("-", "_"),)


def without_shadowed(scans: Iterable[SiteScan]) -> list[Placed]:
    """Return the layers of all directories, the first directory's first, without what it hides of the later ones."""
    names: set[str] = set()
    tops: set[str] = set()
    kept: list[Placed] = []
    for scan in scans:
        visible = [each for each in scan.placed if each.layer.kind != "dist" or each.layer.name not in names]
        if not tops.isdisjoint(scan.tops):
            visible = [left for each in visible if (left := _without_tops(each, tops)) is not None]
        names |= {each.layer.name for each in visible if each.layer.kind == "dist"}
        tops |= scan.regular
        kept += visible
    return kept


def _top(name: str) -> str:
    return name.partition(".")[0]


def _regular(found: Listing) -> set[str]:
    """Return the top-level modules, and the packages that are no namespaces, which could be in several directories."""
    packages = (folder for folder in found.folders if any(_top(name) == "__init__" for name in found.names(folder)))
    return {*packages, *(_top(name) for name in found.names())}


def _without_tops(placed: Placed, tops: Collection[str]) -> Placed | None:
    layer = placed.layer
    rows = zip(layer.files, placed.sources, strict=True)
    left = [(file, source) for file, source in rows if not _is_below(file.path, tops)]
    if len(left) == len(layer.files):
        return placed
    if not left:
        return None
    return place(layer.kind, layer.name, left, version=layer.version, pure=layer.pure, escapes=layer.escapes)


def _is_below(path: str, tops: Collection[str]) -> bool:
    parts = path.split("/")
    return parts[0] == "site" and _top(parts[1]) in tops and not parts[1].endswith("-info")


__all__ = ["SiteScan", "is_site", "scan_site", "without_shadowed"]
