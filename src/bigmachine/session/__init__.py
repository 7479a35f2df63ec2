"""A program's machines, from the first start to the last shutdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigmachine.session.begin import init, is_driver, open_session, start

if TYPE_CHECKING:
    from bigmachine.session.session import Session


def __getattr__(name: str) -> object:
    # A machine's process reaches `start` without ever needing what a driver needs.
    if name == "Session":
        from bigmachine.session.session import Session

        return Session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Session", "init", "is_driver", "open_session", "start"]
