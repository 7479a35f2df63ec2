"""A layer together with where its files lie on the driver."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import repeat
from typing import Any, NamedTuple, overload

from bigmachine.image.manifest import File, Kind, Layer, layer_id

#: Files that only one kind of machine can load.
COMPILED = (".so", ".pyd", ".dylib", ".dll", ".a", ".o")


class Placed(NamedTuple):
    """`sources` are absolute, in the order of the layer's files."""

    layer: Layer
    sources: tuple[str, ...]

    def plain(self, base: str, scheme: str) -> tuple[Any, ...]:
        """Say the same, but for the sources, in strings and numbers, few and long, which are fast to read.

        Most files' paths are `scheme` with what follows `base` in their source; those are not said.
        """
        layer, files = self.layer, self.layer.files
        start = len(base)
        is_regular = all(
            source.startswith(base) and file.path == scheme + source[start:]
            for file, source in zip(files, self.sources, strict=True)
        )
        return (
            (layer.id, layer.kind, layer.name, layer.version, int(layer.pure), int(layer.escapes), layer.mount),
            "" if is_regular else "\0".join(file.path for file in files),
            "\n".join(file.sha256 for file in files),
            array("q", [file.size for file in files]).tobytes(),
            bytes(file.executable for file in files),
            "\0".join(file.link for file in files) if any(file.link for file in files) else "",
        )

    @classmethod
    def of_plain(cls, plain: tuple[Any, ...], watched: Sequence[str], base: str, scheme: str) -> Placed:
        """Read what `plain` said; the sources are the first of what is watched."""
        (number, kind, name, version, pure, escapes, mount), paths, digests, sizes, executable, links = plain
        files = RememberedFiles(paths, digests, sizes, executable, links, watched, len(base), scheme)
        layer = Layer(number, kind, name, version, files, bool(pure), bool(escapes), mount)
        return cls(layer, tuple(watched[: len(files)]))


class RememberedFiles(Sequence[File]):
    """A layer's files as they are remembered; they are made when somebody asks for them.

    Mostly nobody does: a machine that knows the layer by its id needs no list of what is in it.
    """

    def __init__(
        self,
        paths: str,
        digests: str,
        sizes: bytes,
        executable: bytes,
        links: str,
        watched: Sequence[str],
        start: int,
        scheme: str,
    ) -> None:
        self._plain = paths, digests, sizes, executable, links
        self._watched = watched
        self._start = start
        self._scheme = scheme

    @cached_property
    def _files(self) -> tuple[File, ...]:
        paths, digests, sizes, executable, links = self._plain
        if not sizes:
            return ()
        lengths = memoryview(sizes).cast("q")
        sources = self._watched[: len(lengths)]
        rows = zip(
            paths.split("\0") if paths else [self._scheme + source[self._start :] for source in sources],
            digests.split("\n"),
            lengths,
            map(bool, executable),
            links.split("\0") if links else repeat(""),
            strict=False,  # repeat never ends
        )
        # Past the constructors in Python, which check what is known here and take twice as long.
        return tuple(map(partial(tuple.__new__, File), rows))

    def __len__(self) -> int:
        return len(self._plain[2]) // 8

    @overload
    def __getitem__(self, index: int) -> File: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[File, ...]: ...

    def __getitem__(self, index: int | slice) -> File | tuple[File, ...]:
        return self._files[index]

    def __iter__(self) -> Iterator[File]:
        return iter(self._files)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._files == tuple(other)

    def __hash__(self) -> int:
        return hash(self._files)

    def __reduce__(self) -> tuple[type[tuple[File, ...]], tuple[tuple[File, ...]]]:
        return tuple, (self._files,)


def place(
    kind: Kind,
    name: str,
    found: Iterable[tuple[File, str]],
    *,
    version: str = "",
    pure: bool | None = None,
    escapes: bool = False,
    mount: str = "",
) -> Placed:
    """Make a layer of files and their sources. `pure` None: if it has no compiled file."""
    ordered = sorted(found)
    files = tuple(file for file, _ in ordered)
    layer = Layer(
        layer_id(files),
        kind,
        name,
        version,
        files,
        not any(is_compiled(file.path) for file in files) if pure is None else pure,
        escapes,
        mount,
    )
    return Placed(layer, tuple(source for _, source in ordered))


def is_compiled(path: str) -> bool:
    """Whether a file can be loaded by one kind of machine only, by its name."""
    return path.endswith(COMPILED) or ".so." in path.rpartition("/")[2]


def compiled(files: Sequence[File]) -> list[str]:
    """Return the paths of compiled files."""
    return [file.path for file in files if is_compiled(file.path)]


__all__ = ["COMPILED", "Placed", "compiled", "is_compiled", "place"]
