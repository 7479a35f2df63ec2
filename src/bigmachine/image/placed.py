"""A layer together with where its files lie on the driver."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

from bigmachine.image.manifest import File, Kind, Layer, layer_id

#: Files that only one kind of machine can load.
COMPILED = (".so", ".pyd", ".dylib", ".dll", ".a", ".o")

_as_file = partial(tuple.__new__, File)


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
        lengths = memoryview(sizes).cast("q")
        sources = tuple(watched[: len(lengths)])
        start = len(base)
        rows = zip(
            paths.split("\0") if paths else [scheme + source[start:] for source in sources],
            digests.split("\n"),
            lengths,
            map(bool, executable),
            links.split("\0") if links else repeat(""),
            strict=False,  # repeat never ends
        )
        # Past the constructors in Python, which check what is known here and take twice as long.
        files: tuple[File, ...] = tuple(map(_as_file, rows)) if sizes else ()
        return cls(Layer(number, kind, name, version, files, bool(pure), bool(escapes), mount), sources)


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
