"""What a store knows of a layer that is in it: a line to put an environment together from, and a line with its files.

The second line is long, and only read where the files have to be linked one by one.
"""

from __future__ import annotations

import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from bigmachine.image import plan
from bigmachine.image.manifest import BYTE_CODE_FOLDER, File, Layer
from bigmachine.image.store import recorded

#: When the files of trees were last changed, as they are told, in nanoseconds: the year 2000. Who writes to one that
#: is kept, as programs of root may by mistake, gives it another time, which is seen without reading it.
SEALED_NS: Final = 946_684_800_000_000_000
_ENTRY_POINTS: Final = re.compile(r"site/[^/]*-info/entry_points\.txt")


class Stored:
    """A layer in the store; `listing` is the file that says what it consists of.

    Raises:
        OSError: if the listing cannot be read.
        ValueError: if it was cut off.
    """

    def __init__(self, layer: Layer, folder: Path, listing: Path) -> None:
        self.layer = layer
        #: Where its files are.
        self.folder = folder
        self._listing = listing
        with open(listing, encoding="utf-8") as opened:
            told: dict[str, Any] = json.loads(opened.readline())
        #: Folders in site-packages that it has files in.
        self.tops = frozenset[str](told["tops"])
        #: Files that lie in none of those.
        self.others = plan.files(told["others"])
        self.entry_points = tuple[str, ...](told["entry_points"])
        #: What was written beside its files (`bigmachine.image.store.recorded`).
        self.recorded = tuple[str, ...](told["recorded"])
        self._sealed_ns: int | None = told.get("sealed_ns")

    @cached_property
    def files(self) -> tuple[File, ...]:
        """All its files."""
        with open(self._listing, encoding="utf-8") as opened:
            opened.readline()
            return plan.files(json.loads(opened.readline()))

    def changed(self) -> str | None:
        """Name a file of a tree that is not as it was when it was sealed, or not there; None if all are."""
        if self._sealed_ns is None:
            return None
        for file in self.files:
            path = f"{self.folder}/{file.path}"
            try:
                if not file.link and not is_as_kept(os.lstat(path), file.size):
                    return path
            except OSError:
                return path
        return None


def is_as_kept(status: os.stat_result, size: int) -> bool:
    """Whether nobody has written to the file of a tree since it was sealed."""
    return status.st_size == size and status.st_mtime_ns == SEALED_NS


def listing_of(layer: Layer) -> str:
    """Give the text of a layer's listing. The size comes first, for those who need no more."""
    by_scheme = () if layer.kind == "tree" else layer.files  # a tree is always linked file by file
    tops = {file.path: top(file.path) for file in by_scheme}
    told = {
        "size": layer.size,
        **({"sealed_ns": SEALED_NS} if layer.kind == "tree" else {}),
        "tops": sorted(set(filter(None, tops.values()))),
        "others": plan.rows(file for file in by_scheme if not tops[file.path]),
        "entry_points": [path for path in tops if is_entry_points(path)],
        "recorded": recorded.names(layer),
    }
    return f"{json.dumps(told)}\n{json.dumps(plan.rows(layer.files))}\n"


def is_entry_points(path: str) -> bool:
    """Whether a file names what a distribution offers, its scripts among it."""
    return _ENTRY_POINTS.fullmatch(path) is not None


def top(path: str) -> str:
    """Give the folder in site-packages that a file is below; empty for files elsewhere, or at its top."""
    scheme, _, rest = path.partition("/")
    folder, separator, _ = rest.partition("/")
    return folder if scheme == "site" and separator and folder != BYTE_CODE_FOLDER else ""


__all__ = ["SEALED_NS", "Stored", "is_as_kept", "is_entry_points", "listing_of", "top"]
