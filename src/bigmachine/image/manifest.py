"""What an image consists of, as pure values: files, the layers that they come in, and the manifest that names them.

A layer is a set of files that is sent, kept and reused as one: an installed distribution, the local changes to one, a
tree of the project, an interpreter. Its id says what is in it and nothing else, so two hosts, two environments or two
drivers that have the same files have the same layer. The manifest lists the layers of one program; its digest is the
image's name: equal digests mean the same program.

A file's path inside its layer begins with the scheme that says where it belongs in an environment: `site/` for
site-packages, `data/` for the environment's prefix (`share`, `etc`, `include`), `bin/` for scripts that are not
generated from entry points. A tree's paths are relative to its root, which `mount` places in the image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final, Literal, NamedTuple

from bigmachine.frozen import frozen

#: What a layer is. "patch" is what differs from what a distribution says of itself, or belongs to none;
#: "foreign" is a distribution resolved for another platform.
Kind = Literal["dist", "foreign", "patch", "tree", "interpreter"]

#: The file in an image's directory that says that it is whole, what it is called and which layers it has.
MARK: Final = "bigmachine-image.json"

#: Where Python keeps byte code, beside the modules.
BYTE_CODE_FOLDER: Final = "__pycache__"

_VERSION: Final = b"bigmachine-layer-1\0"


class File(NamedTuple):
    """One file of a layer. `sha256` is that of its content, in hex; of a symbolic link `link` is the target instead.

    A tuple, since an image has ten thousands of them and each start makes them all.
    """

    path: str
    sha256: str
    size: int
    executable: bool = False
    link: str = ""

    def line(self) -> str:
        """Say all that makes it what it is, for a layer's id."""
        return f"{self.path}\0{'->' + self.link if self.link else self.sha256}\0{'x' if self.executable else ''}\n"


@frozen
class Layer:
    """Files that go together.

    `pure`: the same on every platform (wheels tagged `none-any`, trees without compiled files). `escapes`: some library
    in it looks for others outside of it, by a path relative to itself, so its files have to lie beside the others'.
    `mount`: where a tree lies in the image, such as `roots/0-app`; empty for what goes by schemes.
    """

    id: str
    kind: Kind
    name: str
    version: str = ""
    files: Sequence[File] = field(default=(), repr=False)
    pure: bool = False
    escapes: bool = False
    mount: str = ""

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)


def layer_id(files: Iterable[File]) -> str:
    """Name a layer by what is in it."""
    digest = hashlib.sha256(_VERSION)
    for line in sorted(file.line() for file in files):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@frozen
class Platform:
    """What compiled files are compiled for.

    `python` is the full version, `abi` the tag of extension modules (`sysconfig`'s SOABI, such as
    `cpython-311-x86_64-linux-gnu`), `system` and `machine` as `platform` gives them, `libc` such as `glibc 2.36`.
    """

    python: str
    abi: str
    system: str
    machine: str
    libc: str = ""

    @property
    def minor(self) -> str:
        """Python's version as packages see it, such as `3.11`."""
        return ".".join(self.python.split(".")[:2])


@frozen
class Manifest:
    """One image: layers in the order in which they are put together; the first that has a path wins.

    `sys_path` are the module search path's entries beside the standard library's, relative to the image's root
    (`site` stands for its site-packages). `pth` are lines of `.pth` files that run or add to the path, rewritten to
    such paths by `{root}`.
    """

    platform: Platform
    layers: tuple[Layer, ...]
    sys_path: tuple[str, ...] = ("site",)
    pth: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The image's name: a hash of all that decides what a program finds there."""
        return hashlib.sha256(json.dumps(self.head(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def head(self) -> dict[str, Any]:
        """Give the manifest without its files, as JSON: a few bytes a layer."""
        platform = self.platform
        return {
            "v": 1,
            "platform": [platform.python, platform.abi, platform.system, platform.machine, platform.libc],
            "layers": [
                [layer.id, layer.kind, layer.name, layer.version, int(layer.pure), int(layer.escapes), layer.mount]
                for layer in self.layers
            ],
            "sys_path": list(self.sys_path),
            "pth": list(self.pth),
        }

    @classmethod
    def from_head(cls, head: Mapping[str, Any]) -> Manifest:
        """Read what `head` gave; the layers are without their files.

        Raises:
            ValueError: if it is none.
        """
        try:
            if head["v"] != 1:
                raise ValueError(f"version {head['v']} of the format")
            layers = tuple(
                Layer(id, kind, name, version, pure=bool(pure), escapes=bool(escapes), mount=mount)
                for id, kind, name, version, pure, escapes, mount in head["layers"]  # noqa: A001 (the field's name)
            )
            return cls(Platform(*head["platform"]), layers, tuple(head["sys_path"]), tuple(head["pth"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no manifest of an image: {error}") from error


__all__ = ["BYTE_CODE_FOLDER", "MARK", "File", "Kind", "Layer", "Manifest", "Platform", "layer_id"]
