"""What makes a process a machine: the boot record, and putting it into effect.

There is at most one a process; `current` gives it, and None says that this process is a driver. It is process-wide
state because it is a fact about the process, like `os.getpid()`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import sys
import time
from typing import TYPE_CHECKING

# A driver comes by here before anything else, and needs none of what its machines do.
if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from bigmachine.agent.launch import LaunchSpec
    from bigmachine.agent.processes.control import BlockingChannel, Message
    from bigmachine.program.debugging import Debugging
    from bigmachine.trust.identity import Identity

_current: Boot | None = None
_untimely: list[Untimely] | None = None


class Boot:
    """This machine: who it is, what it was told to be, and its line to the agent. `is_served`: `serve` was reached.

    `blank`: what its zygote has prepared for `server_context`.
    """

    def __init__(
        self, identity: Identity, spec: LaunchSpec, channel: BlockingChannel, blank: ssl.SSLContext | None = None
    ) -> None:
        self.identity = identity
        self.spec = spec
        self.channel = channel
        self.blank = blank
        #: Where the process that this one replaces has noted its calls; see `journal`.
        self.journal: int | None = None
        self.is_served = False
        self.debugging: Debugging | None = None


class Untimely(BaseException):
    """What a module asks while it is imported has no answer yet: this process is going to be several machines.

    No `Exception`, so that a module that tries and does without does not keep what is only true here.
    """


@contextlib.contextmanager
def rehearsing() -> Iterator[list[Untimely]]:
    """Refuse to say what this process is, while a zygote imports a program's modules; gives what was raised so far."""
    global _untimely  # as `_current`
    _untimely = []
    try:
        yield _untimely
    finally:
        _untimely = None


def current() -> Boot | None:
    """Give this machine's boot record; None in a driver.

    Raises:
        Untimely: in a zygote that imports a program's modules.
    """
    if _untimely is not None:
        _untimely.append(Untimely("it asks at import whether this process is a driver or a machine"))
        raise _untimely[-1]
    return _current


def is_driver() -> bool:
    """Tell whether this process is a driver."""
    return current() is None


def read(message: Message, channel: BlockingChannel, blank: ssl.SSLContext | None = None) -> Boot:
    """Read the boot message, and make this process the machine that it describes, but for its environment.

    Raises:
        ValueError: if the agent speaks another language; it was then started from another version of the library.
    """
    from bigmachine.agent.launch import LaunchSpec
    from bigmachine.trust.identity import Identity

    global _current  # see above
    if message.kind != "boot":
        raise ValueError(f"the first message to a machine must be 'boot', not {message.kind!r}")
    identity = message.body.get("identity")
    if not isinstance(identity, dict):
        raise ValueError("the boot message holds no identity")  # noqa: TRY004 (bad bytes, not a bad argument)
    _current = Boot(Identity.from_dict(identity), LaunchSpec.from_text(message.text("spec")), channel, blank)
    _current.journal = message.fds[0] if message.fds else None
    return _current


def check_image(spec: LaunchSpec) -> None:
    """See that this process runs in the image that it was told of, and in no other.

    Raises:
        ImageError: if not.
    """
    if not spec.root:
        return
    import json

    from bigmachine.errors import ImageError
    from bigmachine.image.manifest import MARK

    try:
        with open(os.path.join(sys.prefix, MARK), "rb") as file:
            digest = json.load(file)["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageError(f"exec: {sys.prefix} is no image of bigmachine ({error}): start the machine again") from error
    if digest != spec.digest:
        raise ImageError(f"exec: this is the image {digest[:12]}, and the machine was to run {spec.digest[:12]}")


def apply(spec: LaunchSpec) -> None:
    """Make this process look as if the program had been started here, by its own command line.

    Raises:
        OSError: if the working directory is not there.
    """
    from bigmachine.agent.processes.scratch import make_directory
    from bigmachine.agent.processes.tree import MARK

    _forget_temporary_directory()
    environ = spec.whole_environ() if make_directory(spec.scratch) else spec.environ
    wanted = environ | {"BIGMACHINE_MODE": "machine", MARK: spec.machine_id}
    stale = os.environ.keys() - wanted.keys()
    if spec.root:  # started with this environment and no other: what else there is, `.pth` files of the image have set
        stale &= spec.whole_environ().keys()
    for name in stale:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:  # in a fork most are right, and a change takes 20 us
            os.environ[name] = value
    time.tzset()
    sys.argv[:] = spec.argv
    # In an image the interpreter finds its packages by itself; the program's own folders stand before them.
    own = [entry for entry in sys.path if entry and entry not in spec.sys_path] if spec.root else []
    sys.path[:] = [*spec.sys_path, *own]
    for stream in (sys.stdout, sys.stderr):
        # A pipe is block buffered, and a line must not wait for 8 KB of others, nor be lost with the process.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no stderr, or not a file
        # A certificate has room for 100 lines, and of many threads the one that crashed may well be the first.
        faulthandler.enable(all_threads=False)
    os.chdir(spec.cwd)


def _forget_temporary_directory() -> None:
    """Have `tempfile` look anew where its files go, if a zygote had it do so; not if a module has set it."""
    if "tempfile" in sys.modules:
        import tempfile

        if tempfile.tempdir == os.environ.get("TMPDIR"):
            tempfile.tempdir = None


__all__ = ["Boot", "Untimely", "apply", "check_image", "current", "is_driver", "read", "rehearsing"]
