"""The driver's own interpreter as a bundle, for hosts that have no Python like it.

It holds the program, the standard library without what no program on a machine needs, and the shared libraries that
these need apart from the C library's, which is the host's own: the driver's must not be newer than the host's, which
`Bundle.libc` says. It is found where it lies: Python looks for its library beside itself, and the loader is told to
(`elf_edit`). `libstdc++` comes along, because wheels take it for granted.

In a virtual environment it is the interpreter below that; what is installed there travels with the image.
"""

from __future__ import annotations

import importlib.util
import os
import re
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from bigmachine.errors import ImageError
from bigmachine.image.bundles.bundle import Bundle, Part, default_cache, kept_bundle
from bigmachine.image.bundles.elf_edit import NotMovable, stripped, with_rpath, without_runpath
from bigmachine.image.bundles.kit import byte_code

#: Where the certificates of public authorities are in the bundle.
CA_FILE: Final = "etc/cacert.pem"
#: Of the standard library, what is for people at a terminal, for building Python, or for its own tests.
_LEFT_OUT: Final = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "idle_test", "tkinter", "turtledemo"}
    | {"ensurepip", "lib2to3", "pydoc_data", "turtle.py", "sitecustomize.py", "usercustomize.py", "EXTERNALLY-MANAGED"}
)
_LEFT_OUT_PATTERN: Final = re.compile(r"config-.*|_tkinter\..*|nis\..*|_test.*\.so|_ctypes_test.*|xxlimited.*|.*\.a")
#: Libraries of glibc: these are the host's.
_GLIBC: Final = re.compile(
    r"(ld-linux.*|linux-vdso|libc|libm|libmvec|libdl|libpthread|librt|libutil|libresolv|libnsl|libanl|libthread_db"
    r"|libBrokenLocale|libnss_\w+)\.so.*"
)
_LINE: Final = re.compile(r"^\s*(\S+) => (/\S+)", re.MULTILINE)
_FALLBACK: Final = ("libstdc++.so.6", "libgcc_s.so.1")
#: Modules whose byte code comes along: what an agent and a program import at their start.
_PROBE: Final = (
    "import sys, asyncio, ssl, json, pickle, logging, ctypes, resource, tempfile, multiprocessing.connection, "
    "concurrent.futures, importlib.metadata, pathlib, subprocess, email.parser, http, zipfile, tarfile, runpy, venv\n"
    "print('\\n'.join(m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)))"
)


def interpreter_bundle(*, cache: Path | None = None) -> Bundle:
    """Give the bundle of this interpreter; the first time takes about 2 s, later ones a millisecond.

    Raises:
        ImageError: if it cannot be made: not Linux, no glibc, or an interpreter that cannot be moved.
    """
    if sys.platform != "linux" or sys.implementation.name != "cpython":
        raise ImageError(
            f"this interpreter ({sys.implementation.name} on {sys.platform}) cannot be sent to a host: install Python "
            f"{sys.version_info.major}.{sys.version_info.minor} there, and the host's own will be used"
        )
    program = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    library = sysconfig.get_path("stdlib")
    own = os.path.join(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("LDLIBRARY") or "")
    places = [program, library, f"{library}/lib-dynload", *([own] if os.path.isfile(own) else [])]
    key = [sys.version, ssl.OPENSSL_VERSION, *(f"{path} {_state(path)}" for path in places if os.path.exists(path))]
    return kept_bundle("interpreters", "\n".join(["runtime", *key]), cache or default_cache(), lambda: _parts(program))


def _state(path: str) -> str:
    state = os.stat(path)
    return f"{state.st_size} {state.st_mtime_ns}"


def _parts(program: str) -> Iterator[Part]:
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    try:
        content = with_rpath(stripped(Path(program).read_bytes()), "$ORIGIN/../lib")
    except NotMovable as error:
        raise ImageError(f"the interpreter {program} cannot be sent to a host: {error}") from error
    name = f"{minor}{sys.abiflags}"
    yield Part(f"bin/{name}", content, executable=True)
    for link in {"python3", "python", minor} - {name}:
        yield Part(f"bin/{link}", link=name)
    compiled = [program]
    wanted = _imported(program)
    for source, path in _standard_library():
        content = Path(source).read_bytes()
        if content.startswith(b"\x7fELF"):
            compiled.append(source)
            content = without_runpath(stripped(content))
        yield Part(path, content)
        if source in wanted and (code := byte_code(path, content)) is not None:
            yield code
    for name, source in _libraries(compiled).items():
        yield Part(f"lib/{name}", without_runpath(stripped(Path(source).read_bytes())))
    if (authorities := certificates()) is not None:
        yield Part(CA_FILE, authorities)


def _standard_library() -> Iterator[tuple[str, str]]:
    """Yield the files of the standard library, and where each goes."""
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    seen = set()
    for kind in ("stdlib", "platstdlib"):
        # In a virtual environment these are the environment's by default, where nothing is.
        root = sysconfig.get_path(kind, vars={"base": sys.base_prefix, "platbase": sys.base_exec_prefix})
        for folder, folders, files in os.walk(root):
            inside = os.path.relpath(folder, root)
            folders[:] = sorted(name for name in folders if not is_left_out(name))
            for file in sorted(files):
                source = f"{folder}/{file}"
                path = os.path.normpath(f"lib/{minor}/{inside}/{file}")
                if not is_left_out(file) and path not in seen and os.path.exists(source):
                    seen.add(path)
                    yield source, path


def is_left_out(name: str) -> bool:
    """Whether a file or folder of the standard library is of no use to a program on a machine."""
    return name in _LEFT_OUT or _LEFT_OUT_PATTERN.fullmatch(name) is not None


def _imported(program: str) -> frozenset[str]:
    found = subprocess.run([program, "-I", "-S", "-c", _PROBE], capture_output=True, check=False, timeout=60, text=True)
    return frozenset(found.stdout.splitlines())


def _libraries(files: Iterable[str]) -> dict[str, str]:
    """Return the libraries that these files need, other than glibc's: name and place, as the loader finds them."""
    found: dict[str, str] = {}
    try:
        done = subprocess.run(["/usr/bin/env", "ldd", *files], capture_output=True, check=False, timeout=60, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ImageError(f"what this interpreter is linked to cannot be found out: ldd: {error}") from error
    for name, place in _LINE.findall(done.stdout):
        if not _GLIBC.fullmatch(name):
            found[name] = os.path.realpath(place)
    for name in _FALLBACK:
        place = found.get(name) or _system_library(name)
        if place is not None:
            found[name] = place
    return found


def _system_library(name: str) -> str | None:
    with open("/proc/self/maps") as maps:
        for line in maps:
            if line.rstrip().endswith(f"/{name}"):
                return os.path.realpath(line.split(maxsplit=5)[5].strip())
    triplet = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    for folder in (f"/usr/lib/{triplet}", f"/lib/{triplet}", "/usr/lib64", "/lib64", "/usr/lib", "/lib"):
        if os.path.exists(place := f"{folder}/{name}"):
            return os.path.realpath(place)
    return None


def certificates() -> bytes | None:
    """Return the certificates of public authorities, for hosts that have none."""
    spec = importlib.util.find_spec("certifi")
    places = [] if spec is None or spec.origin is None else [f"{os.path.dirname(spec.origin)}/cacert.pem"]
    places += [ssl.get_default_verify_paths().cafile or "", "/etc/ssl/certs/ca-certificates.crt"]
    return next((Path(place).read_bytes() for place in places if place and os.path.isfile(place)), None)


__all__ = ["CA_FILE", "certificates", "interpreter_bundle", "is_left_out"]
