"""The diagnostic dump: all that is known of a session at one moment, in one zip file [Go: base/diagnostic/dump].

Each part is taken by itself, in bounded time, and one that cannot be had costs the others nothing: what it failed with
stands in its place. The file is written beside its name and moved there once it is whole, readable by this user only.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bigmachine.errors import BigmachineError
from bigmachine.machine import Machine
from bigmachine.session.seeing import own
from bigmachine.session.seeing.asking import ask_all, why_not
from bigmachine.session.seeing.collecting import collect
from bigmachine.session.seeing.formats import rendered
from bigmachine.session.seeing.kinds import KINDS
from bigmachine.session.seeing.variables import plain
from bigmachine.session.timeline import as_text

if TYPE_CHECKING:
    from bigmachine.rpc import Reactor
    from bigmachine.session.seeing.sight import Sight

#: For what a machine is asked beside stacks and variables.
_PATIENCE: Final = 5.0

#: The name of a file in the zip, and what is in it.
_Files = dict[str, bytes]


def dump(session: Sight, reactor: Reactor, path: str | os.PathLike[str]) -> Path:
    """Write the dump of a session to `path`.

    Raises:
        BigmachineError: if it cannot be written; what was there before is then left as it was.
    """
    place = Path(path)
    files: _Files = {}
    parts: dict[str, Callable[[], _Files]] = {
        "status": lambda: _status(session),
        "versions": _versions,
        "stacks": lambda: _stacks(session, reactor),
        "heap": lambda: _heap(session, reactor),
        "vars": lambda: {"vars.json": _json(plain(session.vars(driver=True)))},
        "logs": lambda: _logs(session, reactor),
        "timeline": lambda: _timeline(session),
    }
    with ThreadPoolExecutor(len(parts), thread_name_prefix="bigmachine-dump") as pool:
        futures = {name: pool.submit(part) for name, part in parts.items()}
        for name, future in futures.items():
            try:
                files.update(future.result())
            except Exception as error:  # noqa: BLE001 (whatever it is, the other parts count)
                files[f"{name}-failed.txt"] = f"{type(error).__name__}: {error}\n".encode()
    try:
        return _written(place, files)
    except OSError as error:
        raise BigmachineError(
            f"the dump could not be written to {place} ({error.strerror or error}): give a path with enough room"
        ) from error


def _written(place: Path, files: _Files) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{place.name}-", dir=place.parent)  # readable by this user only
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for inside, data in sorted(files.items()):
                archive.writestr(inside, data)
        os.replace(name, place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return place


def _status(session: Sight) -> _Files:
    machines = [_state(machine) for machine in session.machines()]
    told = {"session": session.name, "time": time.time(), "machines": machines}
    return {"status.json": _json(told)}


def _state(machine: Machine) -> dict[str, object]:
    return {
        "name": machine.name,
        "address": machine.address,
        "hostname": machine.hostname,
        "maxprocs": machine.maxprocs,
        "owned": machine.owned,
        "state": machine.state.name,
        "phase": machine.phase.value,
        "error": None if machine.error is None else str(machine.error),
        "keepalive_reply_seconds": machine.keepalive_reply_times(),
        "next_keepalive_seconds": machine.next_keepalive,
    }


def _versions() -> _Files:
    from importlib import metadata

    installed = sorted({f"{each.name}=={each.version}" for each in metadata.distributions()}, key=str.lower)
    told = {
        "python": sys.version,
        "platform": platform.platform(),
        "executable": sys.executable,
        "pid": os.getpid(),
        "driver_started": own.born(),
        "installed": installed,
    }
    return {"versions.json": _json(told)}


def _stacks(session: Sight, reactor: Reactor) -> _Files:
    collected = collect(
        reactor, session.machines(), KINDS["goroutine"], seconds=None, options={}, driver=session.is_driver
    )
    return {
        "stacks.txt": rendered(collected, "text", 2),
        "stacks-grouped.txt": rendered(collected, "text", 1),
        "stacks.pb.gz": rendered(collected, "pprof"),
    }


def _heap(session: Sight, reactor: Reactor) -> _Files:
    kind = replace(KINDS["heap"], patience=_PATIENCE)  # a dump is often wanted because something hangs
    collected = collect(reactor, session.machines(), kind, seconds=None, options={}, driver=session.is_driver)
    return {"heap.pb.gz": rendered(collected, "pprof"), "heap.txt": rendered(collected, "text", 1)}


def _logs(session: Sight, reactor: Reactor) -> _Files:
    files: _Files = {}
    for answer in ask_all(reactor, session.machines(), _last_lines, _PATIENCE):
        name = answer.machine.name
        lines: Sequence[str] = answer.value or ()
        if answer.error is not None:
            lines = [f"# {why_not(answer.machine, answer.error)}"]
        files[f"logs/{name}.txt"] = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
    return files


async def _last_lines(machine: Machine) -> list[str]:
    return list(await machine.submit("Supervisor.last_lines"))


def _timeline(session: Sight) -> _Files:
    return {"timeline.txt": f"{as_text(session.timeline())}\n".encode("utf-8", "replace")}


def _json(told: object) -> bytes:
    return (json.dumps(told, indent=1, default=str) + "\n").encode()


__all__ = ["dump"]
