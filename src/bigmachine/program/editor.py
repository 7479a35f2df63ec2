"""debugpy for an editor, over a socket that somebody at the driver is connected with.

`debugpy.listen` opens a port, and whoever on this host connects to it runs code as this user: it asks nobody who he
is. So no port is opened. The debugger in this process (pydevd, a part of debugpy) speaks the editor's protocol itself,
as it does for `listen(..., in_process_debug_adapter=True)`, and here gets its end of the connection as a socket. It is
set up as `debugpy.connect` does it, but for the one place where that would make a connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from bigmachine.agent.conversations import HERE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from bigmachine.rpc.pool import Job

_TOGETHER: Final = 0.5
#: One editor at a time; the next one takes over.
_lock: Final = threading.Lock()


class Pool(Protocol):
    """The threads in which plain methods run."""

    errand: Callable[[], object] | None

    def submit(self, job: Job, /) -> None: ...


def serve(sock: socket.socket, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
    """Speak the Debug Adapter Protocol on `sock` until its other end is closed; then the program goes on, untraced."""
    mine, its = socket.socketpair()
    threading.current_thread().pydev_do_not_trace = True  # type: ignore[attr-defined]  # see `_start_copying`
    try:
        with _lock, ThreadPoolExecutor(1) as aside:
            # The thread that sets it up is traced from then on, and would stop with all others.
            debugger = aside.submit(_begin, its).result()
        reader = debugger.reader
        # Of its own accord it sees those threads alone that are started from now on.
        _in_threads(loop, pool, _trace)
        # Only now it hears the editor, which would run what is to be stopped as soon as it is answered.
        sock.sendall(HERE)
        for source, target in (sock, mine), (mine, sock):
            _start_copying(source, target)
    except Exception as error:  # noqa: BLE001 (debugpy is missing, or another version: who asked is told)
        mine.close()
        _refuse(sock, error)
        return
    reader.join()
    with _lock:
        if debugger.reader is reader:  # no other editor has come meanwhile
            _end(debugger)
            _in_threads(loop, pool, partial(sys.settrace, None))
    for each in mine, its, sock:
        each.close()


def _start_copying(source: socket.socket, target: socket.socket) -> None:
    thread = threading.Thread(target=_copy, args=(source, target), name="bigmachine-editor", daemon=True)
    thread.pydev_do_not_trace = True  # type: ignore[attr-defined]  # or the debugger would stop it with all others
    thread.start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _trace() -> None:
    import pydevd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # debugpy brings it

    pydevd.settrace(suspend=False, trace_only_current_thread=True)


def _in_threads(loop: asyncio.AbstractEventLoop, pool: Pool, function: Callable[[], object]) -> None:
    """Have this done in the event loop's thread, and in those that wait for a call."""
    is_done = threading.Event()

    def do() -> None:
        function()
        is_done.set()

    loop.call_soon_threadsafe(do)
    is_done.wait(_TOGETHER)
    pool.errand = function  # for those that serve a connection each
    threads = [each for each in threading.enumerate() if each.name.startswith("bigmachine-call")]
    together = threading.Barrier(max(1, len(threads)))
    for _ in threads:
        pool.submit(_Once(function, together))


class _Once:
    """A job that each thread does once: whoever has done it waits for the others a little."""

    def __init__(self, function: Callable[[], object], together: threading.Barrier) -> None:
        self._function = function
        self._together = together

    def run(self) -> None:
        self._function()
        with contextlib.suppress(threading.BrokenBarrierError):
            self._together.wait(_TOGETHER)


def _begin(sock: socket.socket) -> Any:
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # or it warns of what machines always are
    import debugpy.server.api  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401 (it brings pydevd)
    import pydevd  # type: ignore[import-not-found,import-untyped,unused-ignore]  # debugpy brings it

    def give(debugger: Any, _host: str, _port: int) -> None:
        debugger.initialize_network(sock, terminate_on_socket_close=False)

    debugger = pydevd.get_global_debugger()
    if debugger is not None:
        _api().request_disconnect(debugger, resume_threads=True)
        give(debugger, "", 0)
        return debugger
    connect, pydevd.PyDB.connect = pydevd.PyDB.connect, give
    try:
        # As `debugpy.listen` does it, which does not wait for the editor either.
        pydevd.settrace(
            host="127.0.0.1",
            port=1,
            suspend=False,
            patch_multiprocessing=False,  # processes of the program would want a port
            wait_for_ready_to_run=False,
            block_until_connected=True,
            notify_stdin=False,
        )
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
