"""Which session is meant."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from bigmachine.cli.client import MISSING, Failure, open_conversation
from bigmachine.cli.printing import ago
from bigmachine.session.register import Entry, Record, sessions

#: For a driver whose connection has ended to say why its session has.
_ENDING: Final = 3.0


def user() -> str:
    """Name the user whose sessions these are."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "this user"


def why_ended(record: Record, now: float) -> str:
    """Say when a session ended, and why."""
    assert record.ended is not None
    when = f"{ago(now - record.ended.at)} ago"
    if record.ended.why == "gone":
        return f"{record.ended.text} (last heard of {ago(now - record.updated)} ago)"
    return f"ended {when}: {record.ended.text}" if record.ended.text else f"ended {when}"


def chosen(wanted: str | None, *, dead_too: bool = False) -> Entry:
    """Find the session that is meant, by its id (or how that begins), its driver's process, or its name.

    Nobody said which: the one that runs; with `dead_too`, the last one that has ended, if none runs.

    Raises:
        Failure: if there is none, or several could be meant.
    """
    known = sessions()
    if wanted is None:
        return _only(known, dead_too=dead_too)
    fits = [entry for entry in known if _is_meant(entry.record, wanted)]
    running = [entry for entry in fits if entry.is_running]
    fits = running or fits
    if not fits:
        raise Failure(f"there is no session {wanted!r}: {_there(known)}", MISSING)
    if len(fits) > 1 and (running or not dead_too):
        raise Failure(f"several sessions could be {wanted!r}: {_there(fits)}", MISSING)
    entry = fits[-1]
    if not entry.is_running and not dead_too:
        why = why_ended(entry.record, time.time())
        raise Failure(f"the session {entry.record.title} ({entry.record.id}) does not run: {why}", MISSING)
    return entry


def latest(entry: Entry) -> Record:
    """Give the record of a session whose connection has ended; it says why in a moment, if that was its end."""
    end = time.monotonic() + _ENDING
    while True:
        record = next((each.record for each in sessions() if each.record.id == entry.record.id), entry.record)
        if record.ended is not None or time.monotonic() > end or _still_listens(entry):
            return record
        time.sleep(0.05)


def _still_listens(entry: Entry) -> bool:
    try:
        open_conversation(entry, "brief", timeout=1.0, connecting=1.0).close()
    except Failure:
        return False
    return True


def _is_meant(record: Record, wanted: str) -> bool:
    return wanted in (str(record.pid), record.name) or (len(wanted) >= 3 and record.id.startswith(wanted))


def _only(known: Sequence[Entry], *, dead_too: bool) -> Entry:
    running = [entry for entry in known if entry.is_running]
    if len(running) == 1:
        return running[0]
    if running:
        raise Failure(f"several sessions run, say which by --session: {_there(running)}", MISSING)
    if not known:
        raise Failure(f"no session of {user()} runs on this computer, and none has ended lately", MISSING)
    last = max(known, key=lambda entry: entry.record.ended.at if entry.record.ended is not None else 0.0)
    if dead_too:
        return last
    raise Failure(
        f"no session of {user()} runs on this computer; the last one, {last.record.title} ({last.record.id}), "
        f"{_has(why_ended(last.record, time.time()))}",
        MISSING,
    )


def _has(why: str) -> str:
    return why if why.startswith("ended") else f"has ended: {why}"


def _there(known: Sequence[Entry]) -> str:
    shown = [entry for entry in known if entry.is_running] or list(known)[-5:]
    if not shown:
        return "there is none"
    return "there is " + ", ".join(
        f"{entry.record.id} ({entry.record.title}, pid {entry.record.pid}{'' if entry.is_running else ', ended'})"
        for entry in shown
    )


__all__ = ["chosen", "latest", "user", "why_ended"]
