"""The program as something that machines run: what its main is, and running it again.

- here: `entry`, `rerun`, `search` (the main program); `manifest` (what an image consists of), `plan`, `packs` and
  `depot` (its way to a host)
- `scan`, on the driver: what the running program is made of; `foreign`: the same for another kind of processor
- `store`, on a host: layers, and images put together from them
- `bundles`: what a bare host needs first, an interpreter and the agent

Importing this package loads nothing until a name is asked for: a local agent starts with `interpreter` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigmachine.lazy import lazily

if TYPE_CHECKING:
    from bigmachine.image.entry import Entry, Form, detect
    from bigmachine.image.image import Image
    from bigmachine.image.interpreter import interpreter_args
    from bigmachine.image.rerun import program_traceback, run
    from bigmachine.image.search import search_path

_HOME = {
    "Entry": "entry",
    "Form": "entry",
    "Image": "image",
    "detect": "entry",
    "interpreter_args": "interpreter",
    "program_traceback": "rerun",
    "run": "rerun",
    "search_path": "search",
}

__getattr__ = lazily(__name__, _HOME)

__all__ = ["Entry", "Form", "Image", "detect", "interpreter_args", "program_traceback", "run", "search_path"]
