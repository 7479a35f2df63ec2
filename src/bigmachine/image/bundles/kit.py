"""The agent's kit: this library and the few packages that an agent imports, as one bundle for bare hosts.

It is what the driver itself runs, wherever that lies, without the rooms above the agent's: the programs of machines
have those from their images. The packages are those of the driver's environment, whose
compiled files are for its minor version of Python, its kind of processor and its kind of C library; for other hosts
`foreign_kit` finds them in the same versions. Byte code comes along, so that the first agent on a host starts as fast
as the second.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

import bigmachine
from bigmachine.errors import ImageError
from bigmachine.image.bundles.bundle import Bundle, Part, default_cache, kept_bundle
from bigmachine.image.bundles.elf_edit import stripped
from bigmachine.image.manifest import BYTE_CODE_FOLDER, Platform
from bigmachine.image.platforms import check_processor, this_platform, usual_machine
from bigmachine.trust.request import has_libcrypto

#: The folder of the kit that belongs on `sys.path`.
SITE: Final = "site"
#: What an agent and a program import beside the standard library; True: it does not work without.
_PACKAGES: Final = {
    **dict.fromkeys(("psutil", "zstandard", "h11", "h2", "hpack", "hyperframe"), True),
    **dict.fromkeys(("aiofastnet", "cloudpickle"), False),
}
#: What only drivers and programs run of this library.
_ABOVE: Final = (
    *("__main__.py", "cli", "config", "config.py", "driver", "driver.py", "machine", "program", "session"),
    *("system", "systems", "testing", "web"),
)
#: Parts of `psutil` that are for systems on which no machine runs.
_OTHER_SYSTEMS: Final = re.compile(r"_ps(aix|bsd|sunos|windows)\.py")
#: Such files are of no use on a host: tests, types, and zstandard's second way into C.
_LEFT_OUT: Final = ("tests", "test", "testing")
_ENDINGS: Final = (".pyi", ".pyx", ".pxd", ".c", ".h", ".so.debug", ".a")

#: What makes keys where the interpreter hides OpenSSL's library, as ours may, and another host's does for all we know.
_CRYPTOGRAPHY: Final = dict.fromkeys(("cryptography", "cffi", "_cffi_backend"), True)


def kit_bundle(target: Platform, *, cache: Path | None = None) -> Bundle:
    """Give the kit for hosts of a platform.

    Raises:
        ImageError: if a package is missing here, or cannot be had for that platform.
    """
    check_processor(target)
    ours, cache = this_platform(), cache or default_cache()
    if _kind(target) == _kind(ours):
        places = _installed({**_PACKAGES, **({} if has_libcrypto() else _CRYPTOGRAPHY)})
    else:
        from bigmachine.image.foreign.kit import found_for

        places = found_for(target, {**_PACKAGES, **_CRYPTOGRAPHY}, cache)
    places["bigmachine"] = Path(bigmachine.__file__).parent
    files = {path: source for name, place in sorted(places.items()) for path, source in _files(name, place)}
    states = ((path, os.stat(source)) for path, source in files.items())
    key = [f"{path} {state.st_size} {state.st_mtime_ns}" for path, state in states]
    with_code = target.minor == ours.minor
    return kept_bundle(
        "kits",
        "\n".join(["kit", sys.version, target.abi, *key]),
        cache,
        lambda: _parts(files, with_code=with_code),
    )


def _kind(platform: Platform) -> tuple[str, ...]:
    """Return what decides whether the compiled files of wheels can be loaded, apart from the C library's version."""
    return (platform.system, usual_machine(platform.machine), platform.minor, platform.libc.partition(" ")[0])


def _installed(packages: Mapping[str, bool]) -> dict[str, Path]:
    places = {}
    for name, is_needed in packages.items():
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            places[name] = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
        elif is_needed:
            raise ImageError(f"the package {name} is not installed here, and the agent needs it: install it")
    return places


def _files(name: str, place: Path) -> Iterator[tuple[str, str]]:
    if place.is_file():
        yield place.name, str(place)
        return
    for folder, folders, files in os.walk(place):
        inside = os.path.relpath(folder, place)
        left_out = _LEFT_OUT if name != "bigmachine" else _ABOVE if inside == "." else ()
        folders[:] = sorted(sub for sub in folders if sub not in (*left_out, BYTE_CODE_FOLDER))
        for file in sorted(files):
            if not (file.endswith(_ENDINGS) or file in left_out or _is_foreign(name, file)):
                yield os.path.normpath(f"{name}/{inside}/{file}"), f"{folder}/{file}"
    libraries = place.parent / f"{name}.libs"  # where wheels keep what their own libraries need
    if libraries.is_dir():
        yield from ((f"{libraries.name}/{file.name}", str(file)) for file in sorted(libraries.iterdir()))


def _is_foreign(name: str, file: str) -> bool:
    """Whether a file is for other systems, or for other implementations of Python."""
    is_for_others = name == "psutil" and _OTHER_SYSTEMS.fullmatch(file) is not None
    return is_for_others or (name == "zstandard" and "_cffi" in file)


def _parts(files: Mapping[str, str], *, with_code: bool) -> Iterator[Part]:
    for path, source in files.items():
        content = Path(source).read_bytes()
        if path.endswith((*EXTENSION_SUFFIXES, ".so")) or ".so." in path:
            content = stripped(content)
        yield Part(f"{SITE}/{path}", content)
        if with_code and path.endswith(".py"):
            code = byte_code(f"{SITE}/{path}", content)
            if code is not None:
                yield code


def byte_code(path: str, source: bytes) -> Part | None:
    """Compile a module; None if it is none for this Python. The result is valid whatever the source's time is."""
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return None
    # PEP 552: flags 1 (named by a hash of the source) without 2 (to be compared with it).
    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
    return Part(importlib.util.cache_from_source(path, optimization=""), head + marshal.dumps(code), derived=True)


__all__ = ["SITE", "byte_code", "kit_bundle"]
