"""Put layers together to a real virtual environment: `sys.executable`, console scripts and metadata work in it.

A tree of the project, and a folder in site-packages that one layer alone has, is a symbolic link to the layer. Where
several have a folder, and where a library in the layer looks for those of others relative to itself, files are hard
links, one by one: the system follows symbolic links before it goes up a folder, so such a library finds others only if
it lies beside them. The environment is built under another name and renamed when it is whole; then nothing in it is
changed any more but byte code.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from bigmachine.errors import ImageError
from bigmachine.image.manifest import BYTE_CODE_FOLDER, MARK, File, Layer, Manifest
from bigmachine.image.store import recorded, scripts
from bigmachine.image.store.stored import Stored, is_entry_points, top

if TYPE_CHECKING:
    from bigmachine.image.store.early import Early

_PTH: Final = "bigmachine.pth"
#: What is larger is a program, and not a script that would have to be rewritten.
_SCRIPT: Final = 1 << 20


class Arriving(NamedTuple):
    """A layer of which files have come into `folder`; `content` says where a content is kept, for trees."""

    layer: Layer
    folder: Path
    content: Callable[[str], Path]

    @property
    def tops(self) -> frozenset[str]:
        """Folders in site-packages that it has files in."""
        return frozenset(filter(None, (top(file.path) for file in self.layer.files)))


class NotYet(Exception):
    """Something has not come without which an environment cannot be put together."""


def assemble_early(
    manifest: Manifest, layers: Sequence[Stored | Arriving], root: Path, python: str, early: Early
) -> None:
    """Build an image at `root` from what has come and from files that `early` holds.

    Raises:
        NotYet: if a file is missing that has to be rewritten for the image.
        ImageError, OSError: as `assemble`.
    """
    builder = _Builder(manifest, layers, root, root, python)
    builder.interpreter()
    for each in layers:
        if isinstance(each, Stored):
            builder.add(each)
        else:
            builder.add_arriving(each, early)
    builder.finish()


def assemble(
    manifest: Manifest, layers: Sequence[Stored], part: Path, root: Path, python: str, older: Path | None = None
) -> None:
    """Build the image in the new directory `part`, to be renamed to `root`, for the interpreter at `python`.

    `layers` are the manifest's. `older` is another image for that interpreter: byte code that was made there is taken
    over for the files that both have.

    Raises:
        ImageError: if two files would have to be at one place in a way that cannot be.
        OSError: if something cannot be written.
    """
    builder = _Builder(manifest, layers, part, root, python)
    part.mkdir(mode=0o755)
    builder.interpreter()
    for each in layers:
        builder.add(each)
    if older is not None:
        builder.inherit(older)
    builder.finish()


class _Builder:
    def __init__(
        self, manifest: Manifest, layers: Sequence[Stored | Arriving], part: Path, root: Path, python: str
    ) -> None:
        self._manifest = manifest
        self._part = part
        self._root = root
        self._python = os.path.realpath(python)
        self._python_here = f"{root}/bin/python"
        self._site = f"lib/python{manifest.platform.minor}/site-packages"
        self._folders: set[str] = set()
        self._caches: set[str] = set()
        #: Trees that are links, by where they are mounted.
        self._trees: dict[str, Stored] = {}
        tops = Counter(top for each in layers if each.layer.kind != "tree" for top in each.tops)
        self._shared = {top for top, count in tops.items() if count > 1}

    def interpreter(self) -> None:
        """Make what tells an interpreter that it is in a virtual environment (PEP 405)."""
        minor = self._manifest.platform.minor
        self._folder("bin")
        self._folder(self._site)
        self._write(
            "pyvenv.cfg",
            f"home = {os.path.dirname(self._python)}\n"
            "include-system-site-packages = false\n"
            f"version = {self._manifest.platform.python}\n",
        )
        os.symlink(self._python, self._part / "bin/python")
        for name in ("python3", f"python{minor}"):
            os.symlink("python", self._part / "bin" / name)
        os.symlink("lib", self._part / "lib64")

    def add(self, stored: Stored) -> None:
        """Add a layer; what is there already stays."""
        layer, source = stored.layer, stored.folder
        if layer.mount and self._mount(stored):
            return
        linked = set[str]() if layer.escapes or layer.kind == "tree" else self._by_name(stored)
        is_rest = linked == stored.tops and layer.kind != "tree"
        modules: dict[str, set[str]] = {}
        for file in stored.others if is_rest else stored.files:
            if linked and top(file.path) in linked:
                continue
            if not self._put(layer, f"{source}/{file.path}", self._place(layer, file.path)):
                continue
            if file.path.endswith(".py"):
                inside, _, name = file.path.rpartition("/")
                modules.setdefault(inside, set()).add(name.removesuffix(".py"))
        for inside, names in modules.items():
            self._byte_code(layer, source, inside, names)
        for path in stored.recorded:
            if top(path) not in linked:
                _link(source / path, self._part / self._place(layer, path))
        for path in stored.entry_points:
            self._scripts(source / path)

    def _mount(self, stored: Stored) -> bool:
        """Link a tree as a whole, unless something is there already."""
        mount = stored.layer.mount
        above = mount.rpartition("/")[0]
        while above:
            if above in self._trees:  # what is in the store is not added to
                raise ImageError(f"assemble: the tree {mount} would have to lie inside of {above}: give them one root")
            above = above.rpartition("/")[0]
        self._folder(mount.rpartition("/")[0])
        try:
            os.symlink(stored.folder, self._part / mount)
        except FileExistsError:
            return False
        self._trees[mount] = stored
        return True

    def add_arriving(self, arriving: Arriving, early: Early) -> None:
        """Add a layer file by file, since its folder will be renamed; what is there already stays."""
        layer = arriving.layer
        modules: dict[str, set[str]] = {}
        for file in layer.files:
            if self._put_arriving(arriving, file, early) and file.path.endswith(".py"):
                inside, _, name = file.path.rpartition("/")
                modules.setdefault(inside, set()).add(name.removesuffix(".py"))
        for inside, names in modules.items():
            self._byte_code(layer, arriving.folder, inside, names)
        for path, content in recorded.written(layer):
            place = self._place(layer, path)
            if not os.path.lexists(self._part / place):
                self._folder(place.rpartition("/")[0])
                self._write(place, content.decode("utf-8", "surrogateescape"))
        for file in layer.files:
            if layer.kind != "tree" and is_entry_points(file.path) and file.size:
                if not (arriving.folder / file.path).exists():
                    raise NotYet(file.path)
                self._scripts(arriving.folder / file.path)

    def _put_arriving(self, arriving: Arriving, file: File, early: Early) -> bool:
        layer, source, place = arriving.layer, f"{arriving.folder}/{file.path}", self._place(arriving.layer, file.path)
        if os.path.lexists(source):
            return self._put(layer, source, place)
        here = f"{self._part}/{place}"
        if os.path.lexists(here):
            return False
        self._folder(place.rpartition("/")[0])
        kept = arriving.content(file.sha256) if layer.kind == "tree" and not file.link else None
        if file.link:
            os.symlink(file.link, here)
        elif file.size == 0:
            os.close(os.open(here, os.O_CREAT | os.O_EXCL, 0o555 if file.executable else 0o444))
        elif place.startswith("bin/") and file.size < _SCRIPT:
            raise NotYet(file.path)
        elif kept is not None and _is_kept(kept, file):
            os.link(kept, here)
        else:
            early.hold(layer.id, file, here)
        return True

    def _put(self, layer: Layer, source: str, place: str) -> bool:
        """Put a file in its place, unless there is one; whether it was put there."""
        here = f"{self._part}/{place}"
        try:
            self._folder(place.rpartition("/")[0])
            if place.startswith("bin/") and not os.path.islink(source) and self._is_script(source, here):
                return True
            os.link(source, here, follow_symlinks=False)
            return True
        except (FileExistsError, NotADirectoryError) as error:
            if not os.path.lexists(here) or (os.path.isdir(here) and not os.path.islink(here)):
                text = f"assemble: {place} of {layer.name} is a file where another package has a folder, or the reverse"
                raise ImageError(f"{text}: remove one of them") from error
            return False

    def _is_script(self, source: str, here: str) -> bool:
        """Write a script, if it is one of another environment's Python, for the image's."""
        with open(source, "rb") as opened:
            text = None
            if opened.read(2) == b"#!":
                opened.seek(0)
                text = scripts.adapted(opened.read(), self._python_here)
        if text is None:
            return False
        self._script(Path(here), text)
        return True

    def _by_name(self, stored: Stored) -> set[str]:
        """Link folders that no other layer has; gives those."""
        linked = set()
        for name in stored.tops - self._shared:
            place = f"{self._part}/{self._site}/{name}"
            if not os.path.lexists(place):
                os.symlink(f"{stored.folder}/site/{name}", place)
                linked.add(name)
        return linked

    def _place(self, layer: Layer, path: str) -> str:
        if layer.mount:
            return f"{layer.mount}/{path}"
        scheme, _, rest = path.partition("/")
        return {"site": f"{self._site}/{rest}", "bin": f"bin/{rest}"}.get(scheme, rest)

    def _byte_code(self, layer: Layer, source: Path, folder: str, modules: set[str]) -> None:
        """Make room for byte code, and take over what the layer has of those modules that are taken from it."""
        place = self._place(layer, f"{folder}/{BYTE_CODE_FOLDER}" if folder else BYTE_CODE_FOLDER)
        os.makedirs(self._part / place, mode=0o755, exist_ok=True)
        self._caches.add(place)
        for name in _compiled(source / folder / BYTE_CODE_FOLDER):
            if name.partition(".")[0] in modules:
                _link(source / folder / BYTE_CODE_FOLDER / name, self._part / place / name)

    def inherit(self, older: Path) -> None:
        """Take over byte code of modules that are the very same files in another image."""
        caches = set(self._caches)
        for mount, stored in self._trees.items():
            if (older / mount).exists() and not _is_same_folder(older / mount, stored.folder):
                modules = (path for file in stored.files if (path := file.path).endswith(".py"))
                caches |= {f"{mount}/{path[: path.rfind('/') + 1]}{BYTE_CODE_FOLDER}" for path in modules}
        for place in caches:
            for name in _compiled(older / place):
                module = f"{place.removesuffix(BYTE_CODE_FOLDER)}{name.partition('.')[0]}.py"
                if _is_same(older / module, self._part / module):
                    _link(older / place / name, self._part / place / name)

    def _folder(self, folder: str) -> None:
        if folder in self._folders:
            return
        os.makedirs(self._part / folder, mode=0o755, exist_ok=True)
        while folder and folder not in self._folders:
            self._folders.add(folder)
            folder = folder.rpartition("/")[0]

    def _scripts(self, entry_points: Path) -> None:
        """Write the scripts that installers make from a distribution's entry points."""
        with contextlib.suppress(UnicodeDecodeError):  # the installer would not have made scripts either
            for name, text in scripts.generated(entry_points.read_text("utf-8"), self._python_here):
                self._script(self._part / "bin" / name, text.encode())

    def _script(self, place: Path, text: bytes) -> None:
        if not os.path.lexists(place):
            place.write_bytes(text)
            os.chmod(place, 0o555)  # noqa: S103 (below a directory that is the user's alone)

    def _write(self, place: str, text: str) -> None:
        (self._part / place).write_text(text, "utf-8", "surrogateescape")
        os.chmod(self._part / place, 0o444)

    def finish(self) -> None:
        """Write what is left, and let nothing be changed any more."""
        lines = [line.replace("{root}", str(self._root)) for line in self._manifest.pth]
        if lines:
            self._write(f"{self._site}/{_PTH}", "\n".join(lines) + "\n")
        told = {"digest": self._manifest.digest, "layers": [each.id for each in self._manifest.layers]}
        self._write(MARK, json.dumps(told))
        for folder in self._folders:
            os.chmod(self._part / folder, 0o555)  # noqa: S103 (below a directory that is the user's alone)


def _compiled(folder: Path) -> list[str]:
    """Name the byte code in a folder; others may be adding to it."""
    try:
        return [name for name in os.listdir(folder) if name.endswith(".pyc")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _link(old: Path, new: Path) -> None:
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        os.link(old, new)


def _is_kept(kept: Path, file: File) -> bool:
    try:
        status = kept.stat()
    except OSError:
        return False
    return status.st_size == file.size and bool(status.st_mode & 0o100) == file.executable


def _is_same_folder(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except OSError:
        return False


__all__ = ["MARK", "Arriving", "NotYet", "assemble", "assemble_early"]
