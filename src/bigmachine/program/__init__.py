"""The main of a machine's process: from the first message of the agent to serving, and to the end.

`main` is how the process starts (`zygote`: how it is forked), `boot` who it is, `serving` what `bigmachine.start()`
does in it, `supervisor` the service that installs services, `failure` what is said when it does not come up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigmachine.program.boot import Boot, current, is_driver

if TYPE_CHECKING:
    from typing import NoReturn

    from bigmachine.program.serving import SessionFactory


def serve(make_session: SessionFactory) -> NoReturn:
    """Serve this machine until its end, which is the end of the process; see `serving`."""
    from bigmachine.program.serving import serve

    serve(make_session)


__all__ = ["Boot", "current", "is_driver", "serve"]
