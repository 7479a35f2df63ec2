"""Say why a program did not come up, as the user would see it had it failed before his eyes.

The text is Python's own traceback without the frames of our machinery above the program's first; the exception goes
along if it survives pickling, so that the driver can raise it again.
"""

from __future__ import annotations

import base64
import pickle
import re
import traceback
from typing import TYPE_CHECKING, Final

from bigmachine.image import program_traceback

if TYPE_CHECKING:
    from types import TracebackType

    from bigmachine.errors import Cause

#: What remains to be said when nothing was raised.
NOT_REACHED = (
    "the program ended without reaching bigmachine.start()/driver.start(): a machine runs the same program up to "
    "there, with the same arguments; call start(), or bigmachine.init(), before anything that may end the program or "
    "depends on where it runs"
)


#: Modules whose frames stand between the process's bottom and the user's code.
_MACHINERY: Final = re.compile(r"(bigmachine|asyncio|concurrent|threading)(\.|$)")


def describe(error: BaseException) -> str:
    """Give the traceback of what a main raised, from the program's own first frame on."""
    return _written(error, program_traceback(error))


def describe_call(error: BaseException) -> str:
    """Give the traceback of what a service raised, from its own first frame on."""
    frames = error.__traceback__
    while frames is not None and _MACHINERY.match(str(frames.tb_frame.f_globals.get("__name__", ""))):
        frames = frames.tb_next
    return _written(error, frames)


def _written(error: BaseException, frames: TracebackType | None) -> str:
    return "".join(traceback.format_exception(type(error), error, frames))


def portable(error: BaseException) -> str | None:
    """Pickle an exception, as text; None if it does not come back whole."""
    try:
        data = pickle.dumps(error)
        if type(pickle.loads(data)) is not type(error):
            return None
    except Exception:  # noqa: BLE001 (any code may run in there, of any class)
        return None
    return base64.b64encode(data).decode("ascii")


def failed(cause: Cause, detail: str, error: BaseException | None = None, text: str = "") -> dict[str, object]:
    """Make the message to the agent. `text`: the traceback, if it is not that of a main."""
    return {
        "k": "failed",
        "cause": cause.value,
        "detail": detail,
        "text": text or (describe(error) if error is not None else ""),
        "exc": None if error is None else portable(error),
    }


__all__ = ["NOT_REACHED", "describe", "describe_call", "failed", "portable"]
