"""What machines write, on the driver.

From the bottom up: `lines` (bytes to lines), `gate` (what is not shown), `recent` (what was written last), `paint` and
`region` (how a terminal shows it) are pure; `worker` is the thread that writes; `destinations` are where lines go,
`records` is where records of `logging` go; `display` puts them together.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from bigmachine.config import output_choice
from bigmachine.errors import InvalidCall
from bigmachine.session.output.destinations import Nowhere, OutputLine, ToFiles, ToFunction, ToStderr
from bigmachine.session.output.display import Display

#: What `start(output=...)` takes: a word as in the configuration, a folder for files, a function.
OutputTarget = str | os.PathLike[str] | Callable[[OutputLine], object]


def display_for(target: OutputTarget, session: str) -> Display:
    """Make the display that `target` asks for; `session` is the session's name, for names of files.

    Raises: InvalidCall if it is nothing of that kind, or a folder cannot be made.
    """
    try:
        if isinstance(target, os.PathLike):
            return Display(ToFiles(os.fspath(target), session))
        if isinstance(target, str):
            kind, folder, is_dropping = output_choice(target)
            if kind == "off":
                return Display(Nowhere(), is_dropping=is_dropping, shows_records=False)
            return Display(ToFiles(folder, session) if folder else ToStderr(), is_dropping=is_dropping)
    except ValueError as error:
        raise InvalidCall(f"output={error}; or a function, or the path of a folder") from None
    except OSError as error:
        raise InvalidCall(
            f"output={target!r}: the folder {error.filename!r} cannot be made: {error.strerror}"
        ) from error
    given: object = target
    if not callable(given):
        raise InvalidCall(f"output={target!r}: it takes a function of one line, the path of a folder, or a word")
    return Display(ToFunction(target))


__all__ = ["Display", "Nowhere", "OutputLine", "OutputTarget", "display_for"]
