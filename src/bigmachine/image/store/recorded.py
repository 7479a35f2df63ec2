"""What an installer writes beside a distribution's files: RECORD and INSTALLER.

They are no part of a layer, since two installers write two different ones for the same wheel. On a host they are
written anew, so that `importlib.metadata.files` works there, and a machine that scans its own environment finds the
same layers. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from typing import Final

from bigmachine.image.manifest import Layer

_RECORD: Final = "RECORD"
_INSTALLER: Final = "INSTALLER"
_NAME: Final = b"bigmachine\n"
#: Where a layer's files are, seen from site-packages (`lib/pythonX.Y/site-packages`).
_PLACES: Final = {"site": "", "bin": "../../../bin/", "data": "../../../"}


def info_folder(layer: Layer) -> str:
    """Name the `.dist-info` of a layer as its files do (`site/name-1.0.dist-info`); empty if it has none of its own."""
    if layer.kind not in ("dist", "foreign"):
        return ""
    found = [file.path for file in layer.files if file.path.endswith(".dist-info/METADATA")]
    own = [path for path in found if path.startswith("site/") and path.count("/") == 2]  # others have a copy inside
    return own[0].rpartition("/")[0] if len(own) == 1 else ""


def names(layer: Layer) -> tuple[str, ...]:
    """Name the files that are written beside a layer's."""
    folder = info_folder(layer)
    return (f"{folder}/{_INSTALLER}", f"{folder}/{_RECORD}") if folder else ()


def written(layer: Layer) -> Iterator[tuple[str, bytes]]:
    """Give those files, with their content."""
    paths = names(layer)
    if paths:
        yield paths[0], _NAME
        yield paths[1], _record(layer, paths)


def _record(layer: Layer, own: tuple[str, ...]) -> bytes:
    """Write RECORD (packaging.python.org, "Recording installed projects")."""
    import csv

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for file in layer.files:
        if file.path not in own:
            is_link = bool(file.link)  # its content is another's
            digest, size = ("", "") if is_link else (_digest(bytes.fromhex(file.sha256)), str(file.size))
            writer.writerow((_place(file.path), digest, size))
    installer, record = own
    writer.writerow((_place(installer), _digest(hashlib.sha256(_NAME).digest()), len(_NAME)))
    writer.writerow((_place(record), "", ""))
    return text.getvalue().encode("utf-8", "surrogateescape")


def _place(path: str) -> str:
    scheme, _, rest = path.partition("/")
    return f"{_PLACES.get(scheme, '')}{rest}"


def _digest(sha256: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(sha256).rstrip(b"=").decode()


__all__ = ["info_folder", "names", "written"]
