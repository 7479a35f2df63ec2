"""What a conda environment has besides its Python packages: shared libraries and data that those need.

The Python packages of such an environment are found in its site-packages like any others. But NumPy of conda links
`<prefix>/lib/libcblas.so`, which another conda package brought; each has its files, with hashes, in a JSON file of
`conda-meta`. Of these, libraries and data go along: to the same places below the image's prefix, where the search
paths of the extensions, which are relative, find them. The interpreter itself, programs and headers do not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from bigmachine.errors import ImageError
from bigmachine.image.manifest import File
from bigmachine.image.scan.cache import ScanCache
from bigmachine.image.scan.distributions import RECORD_SLACK_NS, Found
from bigmachine.image.scan.placed import Placed, place
from bigmachine.image.scan.record import Row

_FOLDERS: Final = ("lib/", "share/", "etc/", "ssl/")
#: Python packages, which site-packages has; what comes with an interpreter; what only compilers need.
_NOT: Final = ("lib/python", "lib/pkgconfig/", "lib/cmake/", "share/man/", "share/doc/", "share/info/")

#: How the layers' names begin.
NAME: Final = "conda:"


def conda_layers(prefix: str, cache_dir: Path | None, *, distrusted: Collection[str] = ()) -> list[Placed]:
    """Return the layers of a conda environment's packages; none if it is no such environment.

    Raises:
        ImageError: A file has to be read and cannot be, or `conda-meta` is damaged.
    """
    meta = f"{prefix}/conda-meta"
    if not os.path.isdir(meta):
        return []
    cache = ScanCache(cache_dir, meta)
    found = [
        _package(prefix, f"{meta}/{name}", cache, distrusted) for name in sorted(os.listdir(meta)) if _is_one(name)
    ]
    cache.forget_unused()
    cache.save()
    return [each for each in found if each.sources]


def _is_one(name: str) -> bool:
    return name.endswith(".json") and not name.startswith("python-")


def _package(prefix: str, about: str, cache: ScanCache, distrusted: Collection[str]) -> Placed:
    base = f"{prefix}/"
    if not distrusted and (kept := cache.holds(about, ())) is not None:
        return Placed.of_plain(kept[1], kept[0], base, "data/")
    try:
        with open(about, encoding="utf-8") as file:
            told = json.load(file)
            until = os.fstat(file.fileno()).st_mtime_ns + RECORD_SLACK_NS
        name, version, rows = str(told["name"]), str(told["version"]), list(_rows(told))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageError(f"scan: {about} says nothing of a conda package ({error!r}): install it again") from error
    found = Found(cache.before(about), distrusted)
    links: list[tuple[File, str]] = []
    for row in rows:
        source = f"{prefix}/{row.path}"
        target = os.readlink(source) if os.path.islink(source) else "/"
        if "/" not in target:  # libx.so -> libx.so.1, beside it
            links.append((File(f"data/{row.path}", "", 0, link=target), source))
        else:
            found.add(f"data/{row.path}", source, recorded=row, until=until)
    placed = place("patch", f"{NAME}{name}", [*found.files, *links], version=version, pure=False, escapes=True)
    cache.put(about, (), [*placed.sources, about], placed.plain(base, "data/"))
    return placed


def _rows(told: dict[str, Any]) -> Iterator[Row]:
    described = {each["_path"]: each for each in told.get("paths_data", {}).get("paths", ())}
    for path in told["files"]:
        about = described.get(path, {})
        if path.startswith(_FOLDERS) and not path.startswith(_NOT) and ".." not in path.split("/"):
            # Where the prefix was written into a file, the second hash is that of what was installed, but the size
            # is not: then the file is read.
            digest = str(about.get("sha256_in_prefix") or about.get("sha256") or "")
            yield Row(path, digest, int(about.get("size_in_bytes", -1)) if digest else -1)


__all__ = ["NAME", "conda_layers"]
