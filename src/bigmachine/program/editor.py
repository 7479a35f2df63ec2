"""debugpy for an editor, over a socket that somebody at the driver is connected with.

`debugpy.listen` opens a port, and whoever on this host connects to it runs code as this user: it asks nobody who he
is. So no port is opened. The debugger in this process (pydevd, a part of debugpy) speaks the editor's protocol itself,
as it does for `listen(..., in_process_debug_adapter=True)`, and here gets its end of the connection as a socket. It is
set up by `debugpy.connect`, at the one place where that would make a connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.conversations import HERE

if TYPE_CHECKING:
    import socket

#: One editor at a time; the next one takes over.
_lock: Final = threading.Lock()


def serve(sock: socket.socket) -> None:
    """Speak the Debug Adapter Protocol on `sock` until its other end is closed; then the program goes on, untraced."""
    try:
        with _lock:
            debugger = _begin(sock)
        reader = debugger.reader
    except Exception as error:  # noqa: BLE001 (debugpy is missing, or another version: who asked is told)
        _refuse(sock, error)
        return
    reader.join()
    with _lock:
        if debugger.reader is reader:  # no other editor has come meanwhile
            _end(debugger)
    sock.close()


def _begin(sock: socket.socket) -> Any:
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # or it warns of what machines always are
    import debugpy  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: T100 (it is asked for)

    debugpy.configure(subProcess=False)  # processes of the program would want a port
    import pydevd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # debugpy brings it

    def give(debugger: Any, _host: str, _port: int) -> None:
        debugger.initialize_network(sock, terminate_on_socket_close=False)

    debugger = pydevd.get_global_debugger()
    sock.sendall(HERE)
    if debugger is not None:
        _api().request_disconnect(debugger, resume_threads=True)
        give(debugger, "", 0)
        return debugger
    connect, pydevd.PyDB.connect = pydevd.PyDB.connect, give
    try:
        debugpy.connect(("127.0.0.1", 1))
    finally:
        pydevd.PyDB.connect = connect
    return pydevd.get_global_debugger()


def _end(debugger: Any) -> None:
    import pydevd

    _api().request_disconnect(debugger, resume_threads=True)
    pydevd.stoptrace()


def _api() -> Any:
    from _pydevd_bundle.pydevd_api import PyDevdAPI  # type: ignore[import-not-found,unused-ignore]

    return PyDevdAPI()


def _refuse(sock: socket.socket, error: Exception) -> None:
    """Answer as a debugger would: the editor shows it."""
    text = f"debugpy cannot be used there: {type(error).__name__}: {error}"
    if isinstance(error, ImportError):
        text = f"debugpy is not installed there: add it to the program's packages ({error})"
    body = json.dumps({"seq": 1, "type": "event", "event": "output", "body": {"category": "stderr", "output": text}})
    end = json.dumps({"seq": 2, "type": "event", "event": "terminated"})
    with sock, contextlib.suppress(OSError):
        said = b"".join(b"Content-Length: %d\r\n\r\n%s" % (len(each.encode()), each.encode()) for each in (body, end))
        sock.sendall(HERE + said)


__all__ = ["serve"]
