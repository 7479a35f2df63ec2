"""Follow what a program of this host says, such as the host's journal: it runs as long as somebody reads.

It runs under the agent's reaper, like any child; see there why there is no `asyncio.subprocess`.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from bigmachine.agent.processes.apart import start_apart
from bigmachine.agent.processes.pipes import PipeReader
from bigmachine.agent.processes.tree import kill_group
from bigmachine.errors import BigmachineError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from bigmachine.agent.processes.reaper import Reaper

#: Pieces that are read ahead of whoever takes them; the program then waits.
_AHEAD: Final = 16


async def follow(reaper: Reaper, command: list[str]) -> AsyncGenerator[bytes, None]:
    """Yield what `command` writes, as it comes; closing ends the program.

    Raises:
        BigmachineError: if it cannot be run, or fails; with what it said last.
    """
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue()
    read, write = os.pipe()
    os.set_blocking(read, False)
    try:
        with reaper.expecting():
            pid = start_apart(command, write, write)
            ending = reaper.watch(pid)
    except OSError as error:
        os.close(read)
        raise BigmachineError(f"{command[0]} cannot be run on this host: {error}") from error
    finally:
        os.close(write)

    def take(data: bytes) -> None:
        pieces.put_nowait(data)
        if pieces.qsize() >= _AHEAD:
            reader.pause()

    reader = PipeReader(loop, read, take)
    reader.ended.add_done_callback(lambda _: pieces.put_nowait(b""))
    last = b""
    try:
        while data := await pieces.get():
            reader.resume()
            last = data
            yield data
        status = (await ending).status
        if status != 0:
            said = last.decode(errors="replace").strip()[-300:]
            raise BigmachineError(f"{command[0]} failed on this host ({said or os.waitstatus_to_exitcode(status)})")
    finally:
        reader.close()
        if not ending.done():
            kill_group(pid)


__all__ = ["follow"]
