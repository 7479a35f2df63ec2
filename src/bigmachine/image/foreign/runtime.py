"""An interpreter for a host that cannot run the driver's, and has none that fits: one that uv gets, as a bundle.

These are the builds of python-build-standalone, of the driver's minor version: they lie anywhere, and need nothing of a
host but its C library. Only what programs on machines need of them goes there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bigmachine.errors import ImageError
from bigmachine.image.bundles.bundle import Bundle, Part, default_cache, kept_bundle
from bigmachine.image.bundles.elf_edit import stripped
from bigmachine.image.bundles.runtime import CA_FILE, certificates, is_left_out
from bigmachine.image.foreign.uv import Uv, UvFailed
from bigmachine.image.manifest import Platform
from bigmachine.image.platforms import usual_machine

_SOABI: Final = re.compile(r"""['"]SOABI['"]\s*:\s*['"]([^'"]+)['"]""")
_VERSION: Final = re.compile(r"cpython-(\d+\.\d+\.\d+)")


def foreign_interpreter(target: Platform, *, cache: Path | None = None) -> tuple[Bundle, Platform]:
    """Give the bundle of an interpreter of the target's minor version and build for it, and the platform that it is.

    Raises:
        ImageError: if there is none for that platform, or it cannot be had; the text says what to do.
    """
    cache = cache or default_cache()
    root = _installed(target, cache)
    version = _VERSION.match(root.name)
    data = next(iter(sorted(root.glob("lib/python3*/_sysconfigdata_*.py"))), None)
    abi = _SOABI.search(data.read_text("utf-8", "replace")) if data is not None else None
    if version is None or abi is None:
        raise ImageError(f"the interpreter that uv found in {root} has no version or no tag: {_remedy(target)}")
    bundle = kept_bundle(
        "interpreters", f"foreign\n{root.name}\n{root.stat().st_mtime_ns}", cache, lambda: _parts(root)
    )
    return bundle, Platform(version[1], abi[1], target.system, target.machine, target.libc)


def _installed(target: Platform, cache: Path) -> Path:
    uv = Uv(target, cache)
    name = _request(target)

    def fill(place: Path) -> None:
        options = ("--no-bin", "--no-progress", "--install-dir", str(place))
        try:
            uv.run("python", "install", *options, name)
        except UvFailed as error:
            raise ImageError(
                f"it needs a Python {target.minor} for {target.system} on {target.machine}, has none that fits, and uv "
                f"cannot get {name}: {_remedy(target)}. uv said: {error}"
            ) from error

    place = uv.kept(("interpreter", name), fill)
    found = [path for path in sorted(place.glob("cpython-*")) if path.is_dir() and not path.is_symlink()]
    if not found:
        raise ImageError(f"uv said that it got {name}, and there is none in {place}: remove that folder")
    return found[-1]


def _request(target: Platform) -> str:
    """Return uv's name of the interpreter: with the C library, and `t` for one without the global lock."""
    free = "t" if re.match(r"cpython-\d+t", target.abi) else ""
    libc = "gnu" if target.libc.startswith("glibc") else "musl"
    system, libc = ("macos", "none") if target.system == "Darwin" else ("linux", libc)
    return f"cpython-{target.minor}{free}-{system}-{usual_machine(target.machine)}-{libc}"


def _remedy(target: Platform) -> str:
    return (
        f"install Python {target.minor} there, and it will be used; or let uv reach its downloads (a mirror: "
        "UV_PYTHON_INSTALL_MIRROR)"
    )


def _parts(root: Path) -> Iterator[Part]:
    program = (root / "bin" / "python3").resolve()
    yield Part(f"bin/{program.name}", stripped(program.read_bytes()), executable=True)
    for link in {"python3", "python"} - {program.name}:
        yield Part(f"bin/{link}", link=program.name)
    for folder, folders, files in os.walk(root / "lib"):
        inside = os.path.relpath(folder, root)
        folders[:] = sorted(name for name in folders if not is_left_out(name) and _is_python(inside, name))
        for file in sorted(files):
            path = f"{folder}/{file}"
            if is_left_out(file) or not _is_python(inside, file):
                continue
            if os.path.islink(path):
                yield Part(f"{inside}/{file}", link=os.readlink(path))
            else:
                yield Part(f"{inside}/{file}", stripped(Path(path).read_bytes()))
    if (authorities := certificates()) is not None:
        yield Part(CA_FILE, authorities)


def _is_python(folder: str, name: str) -> bool:
    """Whether it belongs to Python: beside its library these builds have Tcl's and Tk's."""
    return folder != "lib" or name.startswith(("python3", "libpython3"))


__all__ = ["foreign_interpreter"]
