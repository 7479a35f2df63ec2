"""How stage 0 gets onto a host: as a program with its orders, over a login's standard input or as user data.

Nothing secret is in a command line: a host's Python is started with a few lines that read the rest from standard input,
which stays open afterwards as the tether. A host without a Python of its own says so, by one line on standard output,
and takes an interpreter from the same standard input.
"""

from __future__ import annotations

import ast
import base64
import functools
import json
import shlex
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bigmachine.agent.bare import stage0
from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bigmachine.image.bundles.bundle import Bundle
    from bigmachine.trust import Identity

#: Where a host's own Python may be.
_PYTHONS: Final = ("python3", *(f"python3.{minor}" for minor in range(14, 5, -1)), "/usr/libexec/platform-python")
#: What a host writes that has no Python: this word and a JSON object.
NO_PYTHON: Final = b"bigmachine-no-python "
#: The status of a Python that is too old for stage 0, or has no ssl.
_UNFIT: Final = 97
_PIECE: Final = 1 << 20


@frozen
class Stage0Orders:
    """What stage 0 is told. `identity` has the role bootstrap.

    `cache`: folders to try in turn for what is kept on the host (none: the user's own, then temporary ones).
    `last`: the command that ends the host, once stage 0 ends without having become an agent.
    """

    identity: Identity
    listen: tuple[str, int] = ("0.0.0.0", 0)  # noqa: S104 (whoever has no certificate is refused)
    cache: tuple[str, ...] = ()
    first_contact: float = 120.0
    tethered: bool = True
    last: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Write it as stage 0 reads it."""
        fields: dict[str, object] = dict(self.identity.to_dict())
        fields.update(
            listen=list(self.listen),
            cache=list(self.cache),
            first_contact=self.first_contact,
            tethered=self.tethered,
            last=list(self.last),
        )
        return json.dumps(fields)


@functools.cache
def stage0_program() -> str:
    """Return stage 0 as it is sent: without types, comments and documentation."""
    return ast.unparse(_Bare().visit(ast.parse(Path(stage0.__file__).read_text("utf-8"))))


class _Bare(ast.NodeTransformer):
    """Takes out of a program what Python 3.6 does not know or need."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        for argument in (*node.args.args, *node.args.kwonlyargs):
            argument.annotation = None
        return _undocumented(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        return _undocumented(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self.generic_visit(node)
        return _undocumented(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return None if node.value is None else ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module in ("__future__", "typing") else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)


def _undocumented(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> ast.AST:
    if ast.get_docstring(node, clean=False) is not None:
        node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]
    return node


# over a login


@functools.cache
def _packed() -> bytes:
    return zlib.compress((stage0_program() + "\nmain()\n").encode(), 9)


def _starter() -> str:
    """Return the few lines by which a Python reads stage 0 from standard input; they may not take a byte more."""
    return (
        "import os,sys\n"
        "try:\n"
        " import ssl,zlib\n"
        " d=b'' if sys.version_info>=(3,6) and ssl.HAS_ALPN else 0\n"
        "except ImportError:\n"
        " d=0\n"
        f"if d==0:os._exit({_UNFIT})\n"
        f"while len(d)<{len(_packed())}:\n"
        f" p=os.read(0,{len(_packed())}-len(d))\n"
        " if not p:os._exit(1)\n"
        " d+=p\n"
        "exec(zlib.decompress(d))\n"
    )


def stage0_input(orders: Stage0Orders) -> bytes:
    """Return what is written to the standard input of `stage0_command` or `bare_shell_script`.

    Keep it open afterwards: its end is the end of the host's part.
    """
    text = orders.to_text().encode()
    return _packed() + len(text).to_bytes(4) + text


def stage0_command(python: str) -> str:
    """Return the shell command that starts stage 0 with a Python that is known to be there."""
    return f"exec {shlex.quote(python)} -ISc {shlex.quote(_starter())}"


def bare_shell_script(written: int) -> str:
    """Return the shell command that starts stage 0 on a host of which nothing is known.

    `written`: the length of the `stage0_input` that is written to it at once. The first line on standard output is
    then stage 0's report, or that there is no Python: `NoPython.parse` knows. In that case `NoPython.answer` has to be
    written, which brings an interpreter, and `stage0_input` after it once more.
    """
    words = {
        "PYTHONS": " ".join(_PYTHONS),
        "STARTER": shlex.quote(_starter()),
        "UNFIT": str(_UNFIT),
        "WRITTEN": str(written),
        "NO_PYTHON": NO_PYTHON.decode(),
    }
    script = _SCRIPT
    for word, text in words.items():
        script = script.replace(f"@{word}@", text)
    return f"exec sh -c {shlex.quote(script)}"  # whatever shell the login has


_SCRIPT: Final = """\
s=@STARTER@
h() { command -v "$1" >/dev/null 2>&1; }
for p in @PYTHONS@; do
  h "$p" || continue
  "$p" -ISc "$s"; r=$?
  case $r in @UNFIT@|126|127) ;; *) exit $r;; esac
done
h head || { echo '{"error": "this host has neither Python 3.6 with ssl nor head(1), to take one in"}'; exit 1; }
umask 077
u=$(id -u)
for c in "$HOME/.cache/bigmachine" "/var/tmp/bigmachine-$u" "/tmp/bigmachine-$u" ""; do
  [ -n "$c" ] && mkdir -p "$c/v1/interpreters" 2>/dev/null && [ -O "$c" ] && break
done
[ -n "$c" ] || { echo '{"error": "this host has no folder where a Python can be kept"}'; exit 1; }
m=plain; h tar && h gzip && m=tar
l=$( (getconf GNU_LIBC_VERSION || ldd --version) 2>&1 | head -n 1 | tr -dc 'A-Za-z0-9. ')
k=$(cd "$c/v1/interpreters" && echo *)
echo "@NO_PYTHON@{\\"system\\": \\"$(uname -s)\\", \\"machine\\": \\"$(uname -m)\\", \\"libc\\": \\"$l\\", \
\\"way\\": \\"$m\\", \\"kept\\": \\"$k\\"}"
head -c @WRITTEN@ >/dev/null
read -r i n || exit 1
d="$c/v1/interpreters/$i"
if [ "$n" != 0 ]; then
  p="$d.part-$$"; mkdir "$p" || exit 1
  trap 'rm -rf "$p"' EXIT
  if [ $m = tar ]; then head -c "$n" | gzip -dc | tar -xf - -C "$p" || n=x
  else
    while read -r k b f; do
      case $k in
        end) break;;
        d) mkdir -p "$p/$f";;
        l) ln -s "$b" "$p/$f";;
        *) head -c "$b" >"$p/$f" && chmod "$k" "$p/$f";;
      esac || { n=x; break; }
    done
  fi
  [ "$n" = x ] && { echo '{"error": "the interpreter could not be unpacked: is the disk full?"}'; exit 1; }
  mv "$p" "$d" 2>/dev/null || [ -d "$d" ] || exit 1
  trap - EXIT
fi
"$d/bin/python3" -c 0 || { echo '{"error": "the interpreter that was sent does not run on this host"}'; exit 1; }
exec "$d/bin/python3" -ISc "$s"
"""


@frozen
class NoPython:
    """What a host says that has no Python fit for stage 0. `libc` is empty if it could not be found out."""

    system: str
    machine: str
    libc: str
    way: str
    kept: tuple[str, ...]

    @classmethod
    def parse(cls, line: bytes) -> NoPython | None:
        """Read the host's first line; None if it says something else.

        Raises:
            ValueError: if it is cut off.
        """
        if not line.startswith(NO_PYTHON):
            return None
        facts = json.loads(line[len(NO_PYTHON) :])
        return cls(facts["system"], facts["machine"], facts["libc"], facts["way"], tuple(facts["kept"].split()))

    def answer(self, interpreter: Bundle) -> Iterator[bytes]:
        """Yield what is to be written: the interpreter, unless the host has it."""
        if interpreter.id in self.kept:
            yield f"{interpreter.id} 0\n".encode()
            return
        yield f"{interpreter.id} {interpreter.size}\n".encode()
        yield from _compressed(interpreter) if self.way == "tar" else _plain(interpreter)


def _compressed(bundle: Bundle) -> Iterator[bytes]:
    with bundle.path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _plain(bundle: Bundle) -> Iterator[bytes]:
    """Write a bundle's members one after the other, for a host that has no tar: kind or mode, size or target, path."""
    with tarfile.open(bundle.path) as tar:
        folders: set[str] = set()
        for member in tar:
            folder = member.name.rpartition("/")[0]
            if folder not in folders:
                folders.add(folder)
                yield f"d 0 {folder}\n".encode()
            if member.issym():
                yield f"l {member.linkname} {member.name}\n".encode()
                continue
            content = tar.extractfile(member)
            assert content is not None, member.name
            yield f"{'700' if member.mode & 0o100 else '600'} {member.size} {member.name}\n".encode()
            yield content.read()
    yield b"end 0 0\n"


# as user data


def user_data(orders: Stage0Orders) -> str:
    """Return a program that is stage 0 with its orders, for providers that run what they are given at the first start.

    It needs a Python at /usr/bin/env python3, and holds the host's one-time key: whoever can read the user data can be
    the host until it has made a key of its own, no longer than a quarter of an hour.
    """
    program = f"{stage0_program()}\nmain({orders.to_text()!r})\n"
    packed = base64.b85encode(zlib.compress(program.encode(), 9)).decode()
    return f"#!/usr/bin/env python3\nimport base64,zlib\nexec(zlib.decompress(base64.b85decode({packed!r})))\n"


__all__ = [
    "NO_PYTHON",
    "NoPython",
    "Stage0Orders",
    "bare_shell_script",
    "stage0_command",
    "stage0_input",
    "stage0_program",
    "user_data",
]
