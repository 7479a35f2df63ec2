"""Stage 0: the one file that a bare host gets. It takes in an interpreter and the agent, and becomes the agent.

It is sent, not imported: `delivery.stage0_program` takes out what only people need (this text, comments, types), and
the host's own Python runs the rest. So it is one file, uses nothing but the standard library of Python 3.6, and is
short: with its certificates it fits into what providers take as user data.

Its orders come on standard input like an agent's (a length of four bytes, big-endian, and JSON), or as the argument of
`main`. It listens on one port, says which on standard output as a line of JSON, and talks to the driver of its session
alone: TLS 1.3 with certificates on both sides (1.2 where the host's OpenSSL is that old). Before the driver has proved
who it is there is nothing to ask for. A request is a length of four bytes and JSON, an answer likewise:

    info  modules                      what this host is, and which of `modules` its Python lacks
    have  ids                          those of `ids` that are here
    put   id, sha256, size, unpacked   followed by `size` bytes: a compressed tar file, to be unpacked under its id
          or with `url`, followed by nothing: the same is fetched from there
    exec  argv, orders                 become the agent: `argv`, with `orders` on a pipe, and the port as it is

The agent inherits the listening socket, so that whoever dials meanwhile waits, and meets the agent. The agent's orders
hold a key: they are in no argument, environment or file.

When nobody has called for `first_contact` seconds, or standard input ends (`tethered`), stage 0 ends; before that it
runs the command `last`, by which a host that costs money is switched off.
"""

# Python 3.6 reads it, after `delivery` has taken the types out.
# ruff: noqa: UP031, RUF005, SIM105, B904

from __future__ import annotations

import _imp
import hashlib
import json
import os
import re
import select
import signal
import socket
import ssl
import stat
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable
    from typing import IO, Any

ALPN = "bigmachine-stage0/1"
#: Where the agent finds what it inherits. `bootstrap` has the same numbers.
LISTEN_FD = 60
ORDERS_FD = 61
#: Bytes of a request, and of an agent's orders: a pipe takes so much at once.
REQUEST = 60000
#: Members of a tar file.
MEMBERS = 100000
#: So many connections have not proved yet who they are; the oldest gives way.
STRANGERS = 16
#: Seconds for a handshake; for the command `last`; after which a half-unpacked bundle is nobody's any more.
HANDSHAKE = 10
LAST = 30
STALE = 3600
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
ID = re.compile("(interpreters|kits)/[0-9a-f]{64}")


class Refused(Exception):
    """What the driver asks for cannot be; the text says why."""


class Stage0:
    """One host's stage 0, by its orders."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self.orders = orders
        self.patience = float(orders.get("first_contact", 120))
        self.called = time.monotonic()
        self.lock = threading.Lock()
        self.parts: list[str] = []
        self.strangers: list[ssl.SSLSocket] = []
        self.caller = "bigmachine://%s/driver/" % orders["session"]
        self.cache = find_cache(orders.get("cache") or [])
        self.context = make_context(orders, self.cache)
        host, port = orders["listen"]
        self.listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listening.bind((host, port))
        self.listening.listen(1024)

    def run(self) -> None:
        """Serve until nobody calls any more."""
        watched: list[Any] = [self.listening] + ([0] if self.orders.get("tethered") else [])
        while True:
            left = self.called + self.patience - time.monotonic()
            if left <= 0:
                say("nobody called for %g s" % self.patience)
                return
            ready = select.select(watched, [], [], left)[0]
            if 0 in ready and not os.read(0, 4096):
                return
            if self.listening in ready:
                try:
                    connection = self.listening.accept()[0]
                except OSError:
                    time.sleep(0.1)  # no descriptors: the oldest strangers give theirs back
                    continue
                threading.Thread(target=self.meet, args=(connection,), daemon=True).start()

    def meet(self, connection: socket.socket) -> None:
        """Let somebody prove to be the driver, and do what it asks."""
        try:
            connection.settimeout(HANDSHAKE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):
            connection.close()
            return
        with link:
            self.strangers.append(link)
            if len(self.strangers) > STRANGERS:
                hang_up(self.strangers[0])
            try:
                link.do_handshake()
                certificate: Any = link.getpeercert()
                names = [name for kind, name in certificate.get("subjectAltName", ()) if kind == "URI"]
                if len(names) != 1 or not names[0].startswith(self.caller) or link.selected_alpn_protocol() != ALPN:
                    say("refused a connection of %s" % names)
                    return
            except (OSError, ValueError):
                return
            finally:
                self.strangers.remove(link)
            link.settimeout(self.patience)
            try:
                while self.answer(link):
                    pass
            except Exception:  # noqa: BLE001, S110 (whatever a request lacks: the driver calls again, or not)
                pass

    def answer(self, link: ssl.SSLSocket) -> bool:
        """Do one thing; False if the driver has hung up."""
        head = link.recv(4)
        if not head:
            return False
        size = struct.unpack(">I", head + read(link, 4 - len(head)))[0]
        if size > 2 * REQUEST:
            raise EOFError
        request = json.loads(read(link, size).decode())
        self.called = time.monotonic()
        verb = request["verb"]
        try:
            if verb not in ("info", "have", "put", "exec"):
                raise Refused("stage 0 does not know %r" % verb)
            reply = getattr(self, verb)(request, link)
        except Refused as error:
            reply = {"error": str(error)}
        except OSError as error:
            if isinstance(error, (ssl.SSLError, ConnectionError, socket.timeout)):
                raise
            reply = {"error": "%s (errno %s, %s)" % (error.strerror or error, error.errno, error.filename or "")}
            reply["errno"] = error.errno
        send(link, reply)
        return True

    def info(self, request: dict[str, Any], link: ssl.SSLSocket) -> dict[str, Any]:
        """Say what this host is."""
        from importlib.util import find_spec

        system = os.uname()
        place = os.statvfs(self.cache)
        return {
            "python": "%d.%d.%d" % sys.version_info[:3],
            "soabi": (_imp.extension_suffixes() + ["."])[0].split(".")[1],
            "executable": os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable),
            "lacks": [name for name in request["modules"] if find_spec(name) is None],
            # A library that is built in hides its functions, and the agent needs some of them to make its key.
            "openssl": bool(getattr(sys.modules["_ssl"], "__file__", "")),
            "system": system.sysname,
            "machine": system.machine,
            "libc": libc(),
            "cache": self.cache,
            "free": place.f_bavail * place.f_frsize,
            "uid": os.getuid(),
            "hostname": socket.gethostname(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        }

    def have(self, request: dict[str, Any], link: ssl.SSLSocket) -> dict[str, Any]:
        """Say which bundles are here."""
        return {"ids": [name for name in request["ids"] if ID.fullmatch(name) and os.path.isdir(self.place(name))]}

    def place(self, name: str) -> str:
        """Say where a bundle is."""
        return os.path.join(self.cache, "v1", name)

    def put(self, request: dict[str, Any], link: ssl.SSLSocket) -> dict[str, Any]:
        """Take a bundle in: nothing of it is looked at before its digest is right."""
        name, left = request["id"], request["size"]
        digest, failure = hashlib.sha256(), None
        receive = fetching(request["url"]) if "url" in request else link.recv
        folder = os.path.join(self.cache, "v1")
        with self.lock:
            sweep(folder)
            with open(open_unnamed(folder), "w+b") as file:
                while left:
                    piece = receive(min(left, 1 << 18))
                    if not piece:
                        raise EOFError
                    left -= len(piece)
                    self.called = time.monotonic()
                    if failure is None:
                        digest.update(piece)
                        try:
                            file.write(piece)
                        except OSError as error:
                            failure = error  # the rest has to be read before the driver hears of it
                if failure is not None:
                    raise failure
                if digest.hexdigest() != request["sha256"] or not ID.fullmatch(name):
                    raise Refused("what arrived as %s has the SHA-256 %s" % (name, digest.hexdigest()))
                file.seek(0)
                part = "%s.part-%s" % (os.path.join(folder, name.replace("/", "-")), os.urandom(8).hex())
                self.parts.append(part)
                try:
                    unpack(file, part, request["unpacked"])
                    os.makedirs(os.path.dirname(self.place(name)), 0o700, exist_ok=True)
                    try:
                        os.rename(part, self.place(name))
                    except OSError:
                        if not os.path.isdir(self.place(name)):  # else somebody else was quicker
                            raise
                finally:
                    remove(part)
                    self.parts.remove(part)
        return {}

    def exec(self, request: dict[str, Any], link: ssl.SSLSocket) -> dict[str, Any]:
        """Become the agent. The driver has an answer before; after it comes the end, or a second one with an error."""
        argv, orders = request["argv"], request["orders"].encode()
        if len(orders) > REQUEST:
            raise Refused("an agent's orders of %d bytes are too many" % len(orders))
        if not os.access(argv[0], os.X_OK):
            raise Refused("%s cannot be run on this host" % argv[0])
        with self.lock:
            read_end, write_end = os.pipe()
            os.set_blocking(write_end, False)
            if os.write(write_end, orders) != len(orders):
                raise Refused("this host's pipes take less than an agent's orders")
            send(link, {})
            os.dup2(self.listening.fileno(), LISTEN_FD)
            os.dup2(read_end, ORDERS_FD)
            os.environ["BIGMACHINE_AGENT"] = os.urandom(8).hex()  # its mark, see `commands`
            os.execv(argv[0], argv)  # noqa: S606 (no shell is wanted)
        return {}  # not reached


def fetching(url: str) -> Callable[[int], bytes]:
    """Open a URL where the driver has left a bundle; gives what reads from it. The URL is a secret."""
    from urllib.request import urlopen

    def guarded(work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 (whatever it is: the driver sends the bundle itself)
            raise Refused("fetching it failed: %s" % error)

    answer = guarded(lambda: urlopen(url, timeout=20))  # noqa: S310 (the driver has proved who it is)

    def read_some(count: int) -> bytes:
        piece = guarded(lambda: answer.read(count))
        if not piece:
            raise Refused("what was fetched is cut off")
        return bytes(piece)

    return read_some


def find_cache(candidates: list[str]) -> str:
    """Find a folder of our own where programs may be kept and run."""
    uid, tried = os.getuid(), []
    places = [os.path.expanduser("~/.cache/bigmachine")]
    for path in candidates or places + [top + "/bigmachine-%d" % uid for top in ("/var/tmp", "/tmp")]:  # noqa: S108 (see below)
        script = os.path.join(path, ".probe-" + os.urandom(8).hex())
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            state = os.lstat(path)
            if state.st_uid != uid or not stat.S_ISDIR(state.st_mode) or state.st_mode & 0o022:
                raise OSError("others may write there")
            with open(os.open(script, NEW, 0o700), "w") as file:
                file.write("#!/bin/sh\n")
            try:
                if os.spawnv(os.P_WAIT, script, [script]):  # noqa: S606 (no shell is wanted)
                    raise OSError("programs cannot be run from there")
            finally:
                os.unlink(script)
            os.makedirs(os.path.join(path, "v1"), 0o700, exist_ok=True)
            return path
        except OSError as error:
            tried.append("%s: %s" % (path, error))
    raise Refused("this host has no place for a cache (%s)" % "; ".join(tried))


def make_context(orders: dict[str, Any], cache: str) -> ssl.SSLContext:
    """Make the context: certificates on both sides, one authority, and the newest version of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    modern = getattr(ssl, "HAS_TLSv1_3", False)
    if hasattr(context, "minimum_version"):
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if modern else ssl.TLSVersion.TLSv1_2
    else:
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1 | (ssl.OP_NO_TLSv1_2 if modern else 0)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols([ALPN])
    context.load_verify_locations(cadata=orders["authority"])
    # `ssl` takes a key from a file only: one in memory, or one that is gone at once.
    in_memory = os.path.isdir("/proc/self/fd") and hasattr(os, "memfd_create")
    path = os.path.join(cache, ".key-" + os.urandom(8).hex())
    handle = os.memfd_create("key") if in_memory else os.open(path, NEW, 0o600)
    try:
        os.write(handle, (orders["certificate"] + orders.pop("key")).encode())
        context.load_cert_chain("/proc/self/fd/%d" % handle if in_memory else path)
    finally:
        os.close(handle)
        if not in_memory:
            os.unlink(path)
    return context


def open_unnamed(folder: str) -> int:
    """Open a file that is gone when it is closed."""
    path = os.path.join(folder, ".put-" + os.urandom(8).hex())
    handle = os.open(path, NEW, 0o600)
    os.unlink(path)
    return handle


def unpack(file: IO[bytes], folder: str, limit: int) -> None:
    """Unpack a tar file into a new folder. `limit`: the bytes that its files may have together."""
    import tarfile

    os.mkdir(folder, 0o700)
    links: set[str] = set()
    count = 0
    try:
        with tarfile.open(fileobj=file, mode="r:*") as tar:
            for member in tar:
                count += 1
                limit -= member.size
                if limit < 0 or count > MEMBERS:
                    raise Refused("%s makes the bundle larger than it says" % member.name)
                unpack_member(tar, member, folder, links)
    except (Refused, OSError):
        raise
    except Exception as error:  # noqa: BLE001 (tarfile and the codecs have many)
        raise Refused("the bundle cannot be read: %s" % error)


def unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: str, links: set[str]) -> None:
    """Make one file, folder or symbolic link, where it belongs and nowhere else."""
    name = member.name
    parts = name.split("/")
    above = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    if not set(parts).isdisjoint(("", ".", "..")) or not links.isdisjoint(above) or "\0" in name:
        raise Refused("%r does not lie inside the bundle" % name)
    path = os.path.join(folder, name)
    if member.isdir():
        os.makedirs(path, 0o700, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    if member.issym():
        target = os.path.normpath(os.path.join(os.path.dirname(name), member.linkname))
        # Steps up come first: behind the name of another link they would lead up from where that one points.
        is_plain = os.path.normpath(member.linkname) == member.linkname
        if not is_plain or os.path.isabs(member.linkname) or target.split("/")[0] == "..":
            raise Refused("%r leads out of the bundle, to %r" % (name, member.linkname))
        links.add(name)
        os.symlink(member.linkname, path)
        return
    content = tar.extractfile(member) if member.isreg() else None
    if content is None:
        raise Refused("%r is neither file nor folder nor link" % name)
    mode = 0o500 if member.mode & 0o100 else 0o400
    with open(os.open(path, NEW, mode), "wb") as out:
        left = member.size
        while left:
            piece = content.read(min(left, 1 << 20))
            if not piece:
                raise EOFError("%s is cut off" % name)
            left -= len(piece)
            out.write(piece)


def sweep(folder: str) -> None:
    """Remove what others left half-done."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if ".part-" in name and os.lstat(path).st_mtime < time.time() - STALE:
            remove(path)


def remove(path: str) -> None:
    """Remove a folder, if it is there."""
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def libc() -> str:
    """Name the C library and its version."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return "musl" if any(name.startswith("ld-musl") for name in os.listdir("/lib")) else ""


def read(link: ssl.SSLSocket, count: int) -> bytes:
    """Read so many bytes."""
    data = b""
    while len(data) < count:
        piece = link.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def send(link: ssl.SSLSocket, reply: dict[str, Any]) -> None:
    """Write an answer."""
    data = json.dumps(reply).encode()
    link.sendall(struct.pack(">I", len(data)) + data)


def hang_up(link: ssl.SSLSocket) -> None:
    """End a connection that another thread waits on; SSLSocket's own way would change the object below that thread."""
    try:
        socket.socket.shutdown(link, socket.SHUT_RDWR)
    except OSError:
        pass


def say(text: str) -> None:
    """Tell whoever reads this host's log."""
    sys.stderr.write("bigmachine stage 0: %s\n" % text)


def report(facts: dict[str, Any]) -> None:
    """Tell the driver, if it reads standard output."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def read_orders() -> str:
    """Read the orders from standard input; not one byte more, for its end is the tether."""
    wanted, data = 4, b""
    while len(data) < wanted:
        piece = os.read(0, wanted - len(data))
        if not piece:
            os._exit(0)  # the driver is gone
        data += piece
        if len(data) == 4:
            wanted += struct.unpack(">I", data)[0]
    return data[4:].decode()


def main(text: str = "") -> None:
    """Be stage 0 until the end of this process."""
    orders = json.loads(text or read_orders())
    status, stage0 = 1, None
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(1))
        stage0 = Stage0(orders)
        report({"port": stage0.listening.getsockname()[1], "stage": 0})
        stage0.run()
        status = 0
    except (OSError, Refused, ssl.SSLError) as error:
        report({"error": str(error)})
        say(str(error))
    finally:
        for part in stage0.parts if stage0 else ():
            remove(part)
        if orders.get("last"):
            import subprocess

            try:
                subprocess.call(orders["last"], timeout=LAST, stdin=subprocess.DEVNULL)
            except (OSError, subprocess.TimeoutExpired) as error:
                say("%s: %s" % (orders["last"], error))
        os._exit(status)
