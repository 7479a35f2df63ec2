"""Say why a program did not come up, as the user would see it had it failed before his eyes.

The text is Python's own traceback without the frames of our machinery above the program's first; the exception goes
along if it survives pickling, so that the driver can raise it again.
"""

from __future__ import annotations

import base64
import pickle
import traceback
from typing import TYPE_CHECKING

from bigmachine.image import program_traceback

if TYPE_CHECKING:
    from bigmachine.errors import Cause

#: What remains to be said when nothing was raised.
NOT_REACHED = (
    "the program ended without reaching bigmachine.start()/driver.start(): a machine runs the same program up to "
    "there, with the same arguments; call start(), or bigmachine.init(), before anything that may end the program or "
    "depends on where it runs"
)


def describe(error: BaseException) -> str:
    """Give the traceback of what a main raised, from the program's own first frame on."""
    return "".join(traceback.format_exception(type(error), error, program_traceback(error)))


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
    """Make the message to the agent."""
    return {
        "k": "failed",
        "cause": cause.value,
        "detail": detail,
        "text": text or (describe(error) if error is not None else ""),
        "exc": None if error is None else portable(error),
    }


__all__ = ["NOT_REACHED", "describe", "failed", "portable"]
