"""The profiles at Go's places [Go: profile.go], so that `go tool pprof URL` works, and their index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from bigmachine.errors import BigmachineError, InvalidCall
from bigmachine.web.asgi import HTML, Answer, text
from bigmachine.web.query import PARAMETERS, PROFILES, wanted

if TYPE_CHECKING:
    from bigmachine.session import Session

#: The header with a profile's comments, as a list in JSON; what clients take of a header is bounded.
COMMENTS: Final = "bigmachine-comments"
_LONGEST: Final = 4000
#: As Go says that the text of an error is one.
_GO: Final = {"x_go_pprof": "1"}
#: Names of Go's that have no counterpart, and what comes nearest.
_NEAREST: Final = {"allocs": "heap", "block": "mutex", "threadcreate": "goroutine", "cpu": "profile"}


def profile(session: Session, name: str, query: str) -> Answer:
    """Collect a profile; it takes as long as `seconds` says and a little more. Not on an event loop."""
    from bigmachine.session.seeing.formats import MEDIA, check_format, rendered

    kind = PROFILES.get(name)
    if kind is None:
        nearest = f"; nearest is {_NEAREST[name]}" if name in _NEAREST else ""
        return text(f"no profile {name!r}: there is {', '.join(PROFILES)}{nearest}\n", 404, **_GO)
    try:
        want = wanted(query)
        format_ = check_format(want.format or "pprof", want.debug)
    except (ValueError, InvalidCall) as error:
        return text(f"{error}\n", 400, **_GO)
    known = {key for machine in session.machines() for key in (machine.name, machine.address, machine.machine_id)}
    unknown = [machine for machine in want.machines if machine not in known]
    if unknown:
        there = ", ".join(machine.name for machine in session.machines()) or "none"
        return text(f"no machine {unknown[0]!r}: there is {there}\n", 404, **_GO)
    try:
        collected = session.collect_profile(
            kind, seconds=want.seconds, machines=want.machines or None, driver=want.driver, **want.options
        )
        body = rendered(collected, format_, want.debug)
    except InvalidCall as error:
        return text(f"{error}\n", 400, **_GO)
    except BigmachineError as error:
        return text(f"{error}\n", 503, **_GO)
    headers = {COMMENTS: shortened_comments(collected.profile.comments)}
    if format_ == "pprof":
        headers["content-disposition"] = f'attachment; filename="{name}.pb.gz"'
    return Answer(200, body, MEDIA[format_], headers)


def shortened_comments(comments: Sequence[str]) -> str:
    """Write what must be known of a profile, such as who is missing, for a header: some formats have no place."""
    for most in range(len(comments), -1, -1):
        left = len(comments) - most
        told = json.dumps([*comments[:most], *([f"and {left} more remarks"] if left else [])])
        if len(told) <= _LONGEST:
            return told
    return "[]"


def index(session: Session) -> Answer:
    """List the profiles, of all machines and of each."""
    helps = session.profiles()
    parts = [_HEAD, "<h2>all machines</h2>\n", *_table(helps, "")]
    for each in session.machines():
        parts.append(f"<details><summary>{escape(each.name)}, {escape(each.address)}</summary>\n")
        parts += [*_table(helps, f"&machine={quote(each.name)}"), "</details>\n"]
    parts.append("<h2>parameters</h2>\n<table>\n")
    parts += [f"<tr><th scope=row>{name}</th><td>{escape(what)}</td></tr>\n" for name, what in PARAMETERS.items()]
    parts.append("</table>\n</main>\n")
    return Answer(200, "".join(parts).encode(), HTML)


def _table(helps: Mapping[str, str], machine: str) -> Iterator[str]:
    yield "<table>\n"
    for name, kind in PROFILES.items():
        yield (
            f"<tr><th scope=row><a href='{name}?debug=1{escape(machine)}'>{name}</a></th>"
            f"<td>{escape(helps[kind])}</td>"
            f"<td><a href='{name}?format=svg{escape(machine)}'>flame graph</a></td>"
            f"<td><a href='{name}?format=pprof{escape(machine)}'>pprof</a></td></tr>\n"
        )
    yield f"</table>\n<p><a href='goroutine?debug=2{escape(machine)}'>full stack dump</a></p>\n"


_HEAD: Final = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>profiles</title><link rel="icon" href="data:,"><link rel="stylesheet" href="../static/dashboard.css">
<body><main class="plain"><h1>Profiles</h1>
<p><a href="../">dashboard</a> · <a href="../status">status</a> · <a href="../vars">variables</a></p>
<p>Profiles of the processor and of the interpreter's lock sample for 30 seconds, or as long as <code>seconds=</code>
says. For <code>go tool pprof</code>, give it the address of a profile, with the token of this session.</p>
"""
