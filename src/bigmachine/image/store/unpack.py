"""One layer while it arrives: its files are checked, written beside, and put in place one by one.

Whatever has its own name in the directory is whole and verified, so the next attempt can build on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import ImageError
from bigmachine.image import plan
from bigmachine.image.manifest import BYTE_CODE_FOLDER, File, Layer
from bigmachine.image.store import recorded
from bigmachine.image.store.stored import SEALED_NS, is_as_kept

if TYPE_CHECKING:
    from bigmachine.image.store.early import Awaited, Early

_CHUNK: Final = 4 << 20


class Arrival:
    """Takes in `layer` in `directory`. `content` says where a content is kept by its hash, for trees.

    `claim` is a descriptor that is closed at the end: nobody else takes in the directory for so long. `pack` and
    `bytecode` may be called from several threads.
    """

    #: How the names of files begin that are not whole.
    INCOMPLETE: Final = ".bigmachine-incomplete-"

    def __init__(self, layer: Layer, directory: Path, content: Callable[[str], Path], claim: int) -> None:
        self._claim = claim
        self.layer = layer
        self.directory = directory
        #: Bytes of files so far.
        self.taken = 0
        #: Where programs run already that wait for the files to come.
        self.early: Early | None = None
        self._content = content
        self._lock = threading.Lock()
        self._folders: set[str] = set()
        self._pieces_lock = threading.Lock()
        self._pieces: dict[int, set[tuple[int, int]]] = {}
        self._whole_at: set[int] = set()
        self._awaited: dict[int, Awaited] = {}
        self._paths = {file.path for file in layer.files}
        self._came: set[str] = set()
        for old in directory.glob(f"{self.INCOMPLETE}*"):
            old.unlink()

    def pack(self, head: Mapping[str, Any], content: memoryview) -> None:
        """Write the files, or the piece of one, that a pack holds.

        Raises:
            ImageError: if they are not what the listing says.
            OSError: if they cannot be written.
        """
        begin = 0
        for at, offset, length in _parts(head):
            if not 0 <= at < len(self.layer.files) or length < 0 or begin + length > len(content):
                raise ImageError(f"unpack: a pack of {self.layer.name} has what its listing has not")
            file, piece = self.layer.files[at], content[begin : begin + length]
            begin += length
            if file.link or offset < 0 or offset + length > file.size:
                raise ImageError(f"unpack: {file.path} of {self.layer.name} comes larger than its listing says")
            if length == file.size:
                self._whole(file, piece)
            else:
                self._piece(at, file, offset, piece)
            with self._lock:
                self.taken += length
                self._came.add(file.path)
        if begin != len(content):
            raise ImageError(f"unpack: a pack of {self.layer.name} has bytes that belong to no file")

    def _whole(self, file: File, content: memoryview) -> None:
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise ImageError(
                f"unpack: {file.path} of {self.layer.name} is not what its listing says (its hash differs)"
            )
        awaited = None if self.early is None else self.early.take(self.layer.id, file.path)
        if self.early is None or awaited is None:
            self._write(file.path, content, executable=file.executable)
            return
        try:
            _write_all(awaited.descriptor, content, 0)
            self._put(file.path, awaited)
        except BaseException:
            self.early.give_back(self.layer.id, file.path)
            raise

    def _piece(self, at: int, file: File, offset: int, piece: memoryview) -> None:
        aside = self.directory / f"{self.INCOMPLETE}{at}"
        with self._pieces_lock:  # once a file is whole, nobody writes to it
            if at in self._whole_at:
                return
            awaited = self._awaited_for(at, file)
            descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if awaited is None else -1
            try:
                _write_all(descriptor if awaited is None else awaited.descriptor, piece, offset)
            finally:
                if awaited is None:
                    os.close(descriptor)
            got = self._pieces.setdefault(at, set())
            got.add((offset, len(piece)))
            if sum(length for _, length in got) < file.size:
                return
            self._whole_at.add(at)
        # Whoever opened a file by its name that programs wait for would wait, too.
        with open(aside if awaited is None else os.dup(awaited.descriptor), "rb") as opened:
            opened.seek(0)
            if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
                raise ImageError(f"unpack: {file.path} of {self.layer.name} is not what its listing says")
        if awaited is None:
            os.chmod(aside, 0o555 if file.executable else 0o444)
            os.replace(aside, self._place(file.path))
        else:
            self._awaited.pop(at)
            self._put(file.path, awaited)

    def _awaited_for(self, at: int, file: File) -> Awaited | None:
        if at not in self._awaited and at not in self._pieces and self.early is not None:
            awaited = self.early.take(self.layer.id, file.path)
            if awaited is not None:
                self._awaited[at] = awaited
        return self._awaited.get(at)

    def _put(self, path: str, awaited: Awaited) -> None:
        """Give a file its name, and let those go on who wait for it."""
        assert self.early is not None
        with contextlib.suppress(FileExistsError):  # it came before, in another attempt
            os.link(awaited.place, self._place(path))
        self.early.came(self.layer.id, path)

    def bytecode(self, head: Mapping[str, Any], content: memoryview) -> None:
        """Write byte code of the layer's modules beside them.

        Raises:
            ImageError: if it is of something else.
            OSError: if it cannot be written.
        """
        begin = 0
        for name, length in _modules(head):
            plan.check_path(name)
            folder, _, base = name.rpartition("/")
            source = f"{folder.removesuffix(f'/{BYTE_CODE_FOLDER}')}/{base.partition('.')[0]}.py"
            if not folder.endswith(f"/{BYTE_CODE_FOLDER}") or not base.endswith(".pyc") or source not in self._paths:
                raise ImageError(f"unpack: {name!r} is no byte code of {self.layer.name}")
            self._write(name, content[begin : begin + length], executable=False)
            begin += length

    def _write(self, path: str, content: memoryview, *, executable: bool) -> None:
        place = self._place(path)
        aside = f"{self.directory}/{self.INCOMPLETE}{threading.get_ident()}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o555 if executable else 0o444)
        try:
            _write_all(descriptor, content, 0)
        except BaseException as error:
            os.unlink(aside)
            if isinstance(error, OSError):
                error.filename = place  # a write has none
            raise
        finally:
            os.close(descriptor)
        os.replace(aside, place)

    def _place(self, path: str) -> str:
        folder = path.rpartition("/")[0]
        if folder not in self._folders:
            os.makedirs(self.directory / folder, mode=0o755, exist_ok=True)
            self._folders.add(folder)
        return f"{self.directory}/{path}"

    def complete(self) -> None:
        """Make what had not to come: links, empty files, contents that are here; and close it for good.

        Raises:
            ImageError: if something has not come.
        """
        is_tree = self.layer.kind == "tree"
        for file in self.layer.files:
            place = self._place(file.path)
            if file.link:
                with contextlib.suppress(FileExistsError):
                    os.symlink(file.link, place)
                continue
            if is_tree and file.size and self._link_kept(file, place):
                continue
            if not os.path.lexists(place):
                self._fill_in(file, is_tree)
            elif file.path not in self._came:
                self._check(file, place)
            if os.lstat(place).st_size != file.size:
                os.unlink(place)
                raise ImageError(f"unpack: {file.path} of {self.layer.name} is not whole: start again")
            if is_tree:
                self._keep(file, place)
        for path, content in recorded.written(self.layer):
            if not os.path.lexists(self._place(path)):
                self._write(path, memoryview(content), executable=False)
        self._close_folders()

    def _check(self, file: File, place: str) -> None:
        """Verify a file of an earlier attempt once more: it has lain where nobody watched it."""
        with open(place, "rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256:
                return
        os.unlink(place)
        raise ImageError(f"unpack: {file.path} of {self.layer.name} was changed since it came: start again")

    def _link_kept(self, file: File, place: str) -> bool:
        """Take a file that has not come from the contents that are kept, if it is there as it has to be."""
        try:
            os.link(self._content(file.sha256), place)
        except (FileExistsError, FileNotFoundError):
            return False
        status = os.lstat(place)
        if is_as_kept(status, file.size) and bool(status.st_mode & 0o100) == file.executable:
            return True
        os.unlink(place)  # cut off, or written to; or with another mode, which makes it another file
        return False

    def _fill_in(self, file: File, is_tree: bool) -> None:
        content = b""
        if file.size:
            kept = self._content(file.sha256)
            with contextlib.suppress(FileNotFoundError):
                content = kept.read_bytes() if is_tree and is_as_kept(kept.stat(), file.size) else b""
            if not content:
                raise ImageError(f"unpack: {file.path} of {self.layer.name} has not come: start again")
        self._write(file.path, memoryview(content), executable=file.executable)

    def _keep(self, file: File, place: str) -> None:
        kept = self._content(file.sha256)
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        os.utime(place, ns=(SEALED_NS, SEALED_NS))
        try:
            os.link(place, kept)
        except FileExistsError:
            if not is_as_kept(kept.stat(), file.size):  # it was cut off when the host ended, or written to
                kept.unlink()
                os.link(place, kept)

    def _close_folders(self) -> None:
        """Let nothing be changed any more, but byte code be kept."""
        modules = {file.path.rpartition("/")[0] for file in self.layer.files if file.path.endswith(".py")}
        for folder, names, _ in os.walk(self.directory, topdown=False):
            inside = os.path.relpath(folder, self.directory)
            if os.path.basename(folder) == BYTE_CODE_FOLDER:
                os.chmod(folder, 0o755)  # noqa: S103 (below a directory that is the user's alone)
                continue
            if inside in modules and BYTE_CODE_FOLDER not in names:
                os.mkdir(f"{folder}/{BYTE_CODE_FOLDER}", 0o755)
            if folder != str(self.directory):
                os.chmod(folder, 0o555)  # noqa: S103 (as above)

    def close(self) -> None:
        """Drop what is not whole, and let others go on."""
        for at in self._awaited:
            assert self.early is not None
            self.early.give_back(self.layer.id, self.layer.files[at].path)
        for old in self.directory.glob(f"{self.INCOMPLETE}*"):
            with contextlib.suppress(OSError):
                old.unlink()
        os.close(self._claim)


def _parts(head: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    try:
        return [(int(at), int(offset), int(length)) for at, offset, length in head["parts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ImageError(f"unpack: the head of a pack cannot be read: {error}") from error


def _modules(head: Mapping[str, Any]) -> list[tuple[str, int]]:
    try:
        return [(str(name), int(length)) for name, length in head["modules"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ImageError(f"unpack: the head of byte code cannot be read: {error}") from error


def _write_all(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content[:_CHUNK], offset)
        content, offset = content[written:], offset + written


__all__ = ["Arrival"]
