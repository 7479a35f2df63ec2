"""The files of the dashboard and of the flame graph viewer, as they are in the package."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Final

from bigmachine.web.asgi import HTML, TEXT, Answer, text

_MEDIA: Final = {
    "html": HTML,
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "woff2": "font/woff2",
    "md": TEXT,
}


@functools.cache
def _files() -> dict[str, bytes]:
    """Read all of them, by name: what is not in there cannot be asked for, whatever the path says."""
    root = resources.files("bigmachine.web").joinpath("files")
    found: dict[str, bytes] = {}
    for each in root.iterdir():
        if each.is_dir():
            found.update({f"{each.name}/{inner.name}": inner.read_bytes() for inner in each.iterdir()})
        else:
            found[each.name] = each.read_bytes()
    return found


def static(name: str) -> Answer:
    """Answer with a file; what is below `speedscope` has its version in its name, and may be kept."""
    body = _files().get(name or "index.html")
    if body is None:
        return text(f"no file {name!r} is part of these pages\n", 404)
    media = _MEDIA.get(name.rpartition(".")[2], TEXT)
    keep = "private, max-age=86400" if "-" in name else "no-cache"
    return Answer(200, body, media, {"cache-control": keep})
