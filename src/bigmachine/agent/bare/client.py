"""The driver's side of stage 0: make a bare host run an agent.

`bring_up` asks what the host is, decides which interpreter the agent runs on, sends what the host lacks, and has stage
0 become the agent. A host's own Python is taken if it is like the driver's: the same minor version and build, and no
module less. Otherwise the driver's own goes there, if the host can run it, which its C library decides, or one that uv
gets for the host's processor; that is known before a byte of it is sent.

Everything blocks, within bounds. A broken connection is made anew once; what has arrived whole need not travel again.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from bigmachine.agent.bare.fitting import check_libc, interpreter_for, is_fit
from bigmachine.agent.bootstrap import LISTEN_FD, ORDERS_FD, Bootstrap, Clocks
from bigmachine.agent.commands import agent_command
from bigmachine.errors import AuthenticationError, ImageError, NetworkError, ProvisionError
from bigmachine.frozen import frozen
from bigmachine.image.bundles.kit import SITE, kit_bundle
from bigmachine.image.bundles.runtime import CA_FILE
from bigmachine.image.manifest import Platform
from bigmachine.image.platforms import this_platform
from bigmachine.trust import Identity, Role, check_peer, stage0_context

if TYPE_CHECKING:
    from pathlib import Path

    from bigmachine.image.bundles.bundle import Bundle
    from bigmachine.image.depot import Depot

T = TypeVar("T")

_log = logging.getLogger("bigmachine")

#: Makes a connection to a host's port.
Dial = Callable[[], socket.socket]

#: Modules of the standard library that some hosts' Pythons are without; of these a host needs what the driver has.
_MODULES: Final = (
    *("asyncio", "concurrent", "ctypes", "email", "multiprocessing", "sqlite3", "unittest", "venv", "zoneinfo"),
    *("_asyncio", "_bz2", "_ctypes", "_decimal", "_hashlib", "_lzma", "_multiprocessing", "_posixshmem", "_sqlite3"),
    *("_queue", "_uuid", "readline", "zlib", "_zoneinfo"),
)
_PIECE: Final = 1 << 18
_REPLY_LIMIT: Final = 1 << 20
#: Beyond what is sent, a host needs room for what comes later.
_ROOM: Final = 64 << 20


def tcp(host: str, port: int, timeout: float = 10.0) -> Dial:
    """Return the way to a TCP port."""
    return lambda: socket.create_connection((host, port), timeout)


@frozen
class HostFacts:
    """What stage 0 says of its host: its Python, its system, its cache and the bytes free there."""

    python: str
    soabi: str
    executable: str
    lacks: tuple[str, ...]
    openssl: bool
    system: str
    machine: str
    libc: str
    cache: str
    free: int
    uid: int
    hostname: str
    cpus: int

    @property
    def platform(self) -> Platform:
        """The platform of the host's own Python."""
        return Platform(self.python, self.soabi, self.system, self.machine, self.libc)

    def place(self, bundle: Bundle) -> str:
        """Say where a bundle is on this host."""
        return f"{self.cache}/v1/{bundle.name}"


@frozen
class Raised:
    """A host that runs an agent now: on which interpreter, which of its own platform runs programs, too.

    `ca_file`: the certificates of public authorities that came with the interpreter, if it is the driver's; a host that
    has none needs SSL_CERT_FILE to say so. `sent`: the bytes that went there.
    """

    facts: HostFacts
    python: str
    platform: Platform
    ca_file: str
    sent: int


#: Told what goes on: the stage (a word) and the bytes sent so far.
Note = Callable[[str, int], None]


class BareHost:
    """A client of stage 0 at the end of `dial`, which has the identity `server_id`. `host` is for messages."""

    def __init__(self, dial: Dial, driver: Identity, server_id: str, *, host: str, timeout: float = 30.0) -> None:
        self._dial = dial
        self._driver = driver
        self._server_id = server_id
        self._timeout = timeout
        self._context: ssl.SSLContext | None = None
        self._link: ssl.SSLSocket | None = None
        self.host = host
        self.sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def info(self) -> HostFacts:
        """Ask what the host is.

        Raises:
            NetworkError, AuthenticationError: if it cannot be reached, or is somebody else.
        """
        modules = [name for name in _MODULES if importlib.util.find_spec(name) is not None]
        facts = self._twice("asking what it is", lambda: self._ask("info", modules=modules))
        try:
            return HostFacts(**{**facts, "lacks": tuple(facts["lacks"])})
        except (TypeError, KeyError) as error:
            raise ProvisionError(f"{self.host}: its stage 0 is of another version ({error})") from error

    def have(self, bundles: Sequence[Bundle]) -> frozenset[str]:
        """Ask which bundles are there; gives their names.

        Raises:
            NetworkError, AuthenticationError: as `info`.
        """
        names = [bundle.name for bundle in bundles]
        return frozenset(self._twice("asking what it has", lambda: self._ask("have", ids=names))["ids"])

    def get(self, bundle: Bundle, depot: Depot) -> bool:
        """Have the host fetch a bundle from a depot; False if that does not work: then it has to be sent.

        Raises:
            NetworkError, AuthenticationError: as `info`.
        """
        url = depot.url(bundle.sha256, bundle.path.read_bytes)
        if not url:
            return False
        try:
            self._twice(f"having it fetch {bundle.name[:20]}", lambda: self._ask("put", **_described(bundle), url=url))
        except ProvisionError as error:
            _log.info("%s; it is sent", error)
            return False
        return True

    def put(self, bundle: Bundle, note: Note = lambda _stage, _sent: None) -> None:
        """Send a bundle.

        Raises:
            ImageError: if the host cannot keep it, or something else arrives.
            NetworkError, AuthenticationError: as `info`.
        """
        self._twice(f"sending it {bundle.name[:20]}", lambda: self._put(bundle, note))

    def exec(self, argv: Sequence[str], orders: str) -> None:
        """Have stage 0 become `argv`, which finds the port and `orders` (JSON) as descriptors.

        Raises:
            ProvisionError: if it cannot.
            NetworkError, AuthenticationError: as `info`.
        """
        stage = "starting its agent"
        with self._naming(stage):
            self._ask("exec", argv=list(argv), orders=orders)
            # No answer follows if it succeeds: the connection closes with the program that had it.
            with contextlib.suppress(EOFError, ConnectionError, ssl.SSLError):
                reply = self._receive(self._connected())
                raise ProvisionError(f"{self.host}: {stage} failed: {reply.get('error')}; the program was {argv[0]}")
        self.close()

    # the way there

    def _twice(self, stage: str, work: Callable[[], T]) -> T:
        try:
            with self._naming(stage):
                return work()
        except NetworkError:
            self.close()
        with self._naming(stage):
            return work()

    @contextlib.contextmanager
    def _naming(self, stage: str) -> Iterator[None]:
        """Say of every error which host and what it was about."""
        try:
            yield
        except TimeoutError as error:
            self.close()
            raise NetworkError(
                f"{self.host}: {stage}: no answer within {self._timeout:g} s; is it overloaded?"
            ) from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, EOFError, ConnectionError) as error:
            self.close()
            raise NetworkError(
                f"{self.host}: {stage}: the connection broke ({str(error) or 'end of file'}); did stage 0 end there, "
                "or does a firewall cut in?"
            ) from error
        except ssl.SSLError as error:
            self.close()
            raise AuthenticationError(
                f"{self.host}: {stage}: TLS failed ({error.reason or error}); is the port another program's, or of "
                "another session?"
            ) from error
        except OSError as error:
            self.close()
            raise NetworkError(f"{self.host}: {stage}: {error}; is the host up, and the port open?") from error
        except _Failed as failed:
            text = f"{self.host}: {stage} failed: {failed.text}"
            if failed.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ImageError(f"{text}; make room there, or have the folder on a larger disk") from failed
            raise (ImageError if failed.verb == "put" else ProvisionError)(text) from failed

    def _connected(self) -> ssl.SSLSocket:
        if self._link is None:
            if self._context is None:
                self._context = stage0_context(self._driver)
            sock = self._dial()
            try:
                sock.settimeout(self._timeout)
                link = self._context.wrap_socket(sock, server_hostname=self._server_id)
            except BaseException:
                sock.close()
                raise
            try:
                check_peer(link, self._driver.session, (Role.BOOTSTRAP,), self._server_id)
            except AuthenticationError:
                link.close()
                raise
            self._link = link
        return self._link

    def _ask(self, verb: str, **request: object) -> dict[str, Any]:
        link = self._connected()
        _send(link, {"verb": verb, **request})
        return self._reply("get" if "url" in request else verb, link)

    def _reply(self, verb: str, link: ssl.SSLSocket) -> dict[str, Any]:
        reply = self._receive(link)
        if "error" in reply:
            raise _Failed(verb, str(reply["error"]), reply.get("errno"))
        return reply

    def _put(self, bundle: Bundle, note: Note) -> None:
        link = self._connected()
        _send(link, {"verb": "put", **_described(bundle)})
        with bundle.path.open("rb") as file:
            while piece := file.read(_PIECE):
                link.sendall(piece)
                self.sent += len(piece)
                note("sending", self.sent)
        self._reply("put", link)

    def _receive(self, link: ssl.SSLSocket) -> dict[str, Any]:
        size = int.from_bytes(_read(link, 4))
        if size > _REPLY_LIMIT:
            raise ProvisionError(f"{self.host}: an answer of {size} bytes is not stage 0's: what listens there?")
        reply = json.loads(_read(link, size))
        if not isinstance(reply, dict):
            raise ProvisionError(f"{self.host}: {reply!r} is no answer of stage 0: what listens there?")
        return reply


def _described(bundle: Bundle) -> dict[str, object]:
    return {"id": bundle.name, "sha256": bundle.sha256, "size": bundle.size, "unpacked": bundle.unpacked}


class _Failed(Exception):
    def __init__(self, verb: str, text: str, number: int | None) -> None:
        super().__init__(text)
        self.verb = verb
        self.text = text
        self.errno = number


def _send(link: ssl.SSLSocket, request: dict[str, Any]) -> None:
    data = json.dumps(request).encode()
    link.sendall(len(data).to_bytes(4) + data)


def _read(link: ssl.SSLSocket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = link.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


# what goes there


def bring_up(
    host: BareHost,
    bootstrap: Identity,
    clocks: Clocks,
    *,
    tethered: bool,
    cache: Path | None = None,
    preload: tuple[str, ...] = (),
    notices: str = "",
    depot: Depot | None = None,
    note: Note = lambda _stage, _sent: None,
) -> Raised:
    """Make the host run an agent; it answers at the port of stage 0, with the identity `bootstrap`.

    That may be another one than stage 0 has. `depot`: where the host may fetch what it lacks. `notices`: the provider
    whose notices of the host's end the agent watches.

    Raises:
        ImageError: if no interpreter is to be had that fits it and the program, or no package that an agent needs
            there, or if it has no room.
        ProvisionError, NetworkError, AuthenticationError: if it cannot be reached, or fails; the text says where.
    """
    note("asking", 0)
    facts = host.info()
    python, platform, ca_file = facts.executable, facts.platform, ""
    bundles = []
    if not is_fit(platform, this_platform(), openssl=facts.openssl, lacks=facts.lacks):
        interpreter, platform = interpreter_for(host.host, facts.system, facts.machine, facts.libc, cache=cache)
        python = f"{facts.place(interpreter)}/bin/python3"
        ca_file = f"{facts.place(interpreter)}/{CA_FILE}"
        bundles.append(interpreter)
    elif python.startswith(f"{facts.cache}/v1/interpreters/"):  # it went there before stage 0, over the login
        ca_file = f"{python.rpartition('/bin/')[0]}/{CA_FILE}"
    try:
        kit = kit_bundle(platform, cache=cache)
    except ImageError as error:
        raise ImageError(f"{host.host}: {error}") from error
    check_libc(kit, "the agent", host.host, facts.libc)
    bundles.insert(0, kit)
    had = host.have(bundles)
    lacking = [bundle.whole() for bundle in bundles if bundle.name not in had]
    needed = sum(bundle.size + bundle.unpacked for bundle in lacking) + _ROOM
    if facts.free < needed:
        raise ImageError(
            f"{host.host}: {facts.cache} has {facts.free >> 20} MiB free, and {needed >> 20} MiB are needed: make "
            "room there, or have the folder on a larger disk"
        )
    for bundle in lacking:
        if depot is None or not host.get(bundle, depot):
            host.put(bundle, note)
    note("starting", host.sent)
    sys_path = [f"{facts.place(kit)}/{SITE}"]
    listen = ("", 0)  # it inherits a socket
    orders = Bootstrap(
        bootstrap, clocks, listen, [python], sys_path, tethered=tethered, notices=notices, cache=facts.cache
    )
    # Without a zygote, which machines that live in an image could not use; and so apart from the host's own settings.
    argv = agent_command(sys_path, python=python, interpreter=[], preload=preload, inherited=(LISTEN_FD, ORDERS_FD))
    host.exec(argv, orders.to_json()[4:].decode())
    return Raised(facts, python, platform, ca_file, host.sent)


__all__ = ["BareHost", "Dial", "HostFacts", "Note", "Raised", "bring_up", "tcp"]
