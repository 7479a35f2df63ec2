"""`bigmachine debug`: an editor debugs a machine's program by debugpy, through the session's own connections.

The editor connects to a port of this computer's own address, 127.0.0.1. Whoever could connect to it would run code on
the machine, so other users of this computer are refused, by what the kernel says of whose connection it is. On the
machine's host no port is opened: see `bigmachine.program.editor`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.conversations import DONE, FAILED, HERE
from bigmachine.cli.choosing import chosen
from bigmachine.cli.client import OK, Failure, open_conversation
from bigmachine.cli.numbers import whole
from bigmachine.cli.printing import plain, say, say_json, warn

if TYPE_CHECKING:
    from bigmachine.session.register import Entry

_CHUNK: Final = 65536
_BEGINNING: Final = 60.0
#: Asked before anything else, for an editor shows little of what goes wrong.
_LOOK: Final = (
    "import importlib.util, json, os; print(json.dumps([importlib.util.find_spec('debugpy') is not None, os.getcwd()]))"
)


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Say which arguments it takes."""
    parser.add_argument("machine", metavar="MACHINE", help="by name or address")
    parser.add_argument(
        "--port", type=whole(0, 65535), default=0, help="of this computer, for the editor; otherwise a free one"
    )


def run_debug(args: argparse.Namespace) -> int:
    """Serve an editor until Ctrl-C."""
    entry = chosen(args.session)
    there = _directory(entry, args.machine)
    with _listening(args.port) as listener:
        launch = _launch(args.machine, listener.getsockname()[1], entry.record.directory, there)
        if args.json:
            say_json(launch)
        else:
            port = launch["connect"]["port"]
            say(f"An editor can debug {plain(args.machine)} at 127.0.0.1, port {port}. In VS Code's")
            say('launch.json ("configurations"):\n')
            say(json.dumps(launch, indent=2))
            say("\nCtrl-C ends this; the machine goes on.")
        sys.stdout.flush()
        while True:
            editor, peer = listener.accept()
            if not _is_ours(peer):
                editor.close()
                warn(f"a connection from port {peer[1]} was refused: it is not this user's")
                continue
            threading.Thread(target=_serve, args=(entry, args.machine, editor), daemon=True).start()
    return OK


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port), backlog=1)
    except OSError as error:
        why = os.strerror(error.errno or 0)  # socket adds the address, which is said
        told = f"port {port} of 127.0.0.1 is not to be had ({why}): without --port a free one is taken"
        raise Failure(told) from error


def _directory(entry: Entry, machine: str) -> str:
    """Ask where the program works on the machine, and whether debugpy is there."""
    said = b""
    with open_conversation(entry, "converse", timeout=_BEGINNING, machine=machine, kind="shell", code=_LOOK) as talk:
        while data := talk.read():
            said += data
    try:
        has_debugpy, directory = json.loads(said.translate(None, HERE + DONE + FAILED))
    except ValueError:
        raise Failure(f"machine {machine} does not answer: {said.decode('utf-8', 'replace').strip()}") from None
    if not has_debugpy:
        raise Failure(f"debugpy is not installed on {machine}: add it to the packages of the program")
    return str(directory)


def _launch(machine: str, port: int, here: str, there: str) -> dict[str, Any]:
    launch: dict[str, Any] = {
        "name": f"bigmachine {machine}",
        "type": "debugpy",
        "request": "attach",
        "connect": {"host": "127.0.0.1", "port": port},
        "justMyCode": True,
    }
    if here and here != there:
        launch["pathMappings"] = [{"localRoot": here, "remoteRoot": there}]
    return launch


def _is_ours(peer: tuple[str, int]) -> bool:
    """Tell whether a connection from this computer is of this user; True where the kernel does not say (macOS)."""
    if sys.platform != "linux":
        return True
    wanted = f"{int.from_bytes(socket.inet_aton(peer[0]), sys.byteorder):08X}:{peer[1]:04X}"
    with open("/proc/net/tcp", encoding="ascii") as file:
        for line in file:
            fields = line.split()
            if fields[1] == wanted:
                return int(fields[7]) == os.geteuid()
    return False


def _serve(entry: Entry, machine: str, editor: socket.socket) -> None:
    try:
        with editor, open_conversation(entry, "converse", timeout=_BEGINNING, machine=machine, kind="debugpy") as talk:
            threading.Thread(target=_pass_on, args=(editor, talk.connection), daemon=True).start()
            is_first = True
            while data := talk.read():
                editor.sendall(data.removeprefix(HERE) if is_first else data)
                is_first = False
    except Failure as failure:
        warn(str(failure))
    except OSError:
        pass  # the editor has gone


def _pass_on(editor: socket.socket, program: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := editor.recv(_CHUNK):
            program.sendall(data)
    with contextlib.suppress(OSError):
        program.shutdown(socket.SHUT_RDWR)


__all__ = ["add_debug", "run_debug"]
