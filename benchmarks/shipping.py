"""Bringing an image to a host's store: all of it, again, after an edit, and with one package more.

Both ends in one process, nothing between them: what is measured is reading, compressing, verifying, unpacking and
assembling. `BIGMACHINE_BENCH_SITE` names the site-packages that are brought; default: those of this interpreter. The
floor is `tar | zstd -3 | tar` of the same files, without verification or an environment, where there is zstd.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import measure
import scan as scanning
from measure import Goal, Options, Row, Stat

from bigmachine.image.entry import script_entry
from bigmachine.image.pack_cache import PackCache
from bigmachine.image.packs import frames
from bigmachine.image.plan import encode_head
from bigmachine.image.scan.scan import scan
from bigmachine.image.scan.scanned import Scan
from bigmachine.image.store.collect import remove
from bigmachine.image.store.store import Store

_FLOOR = "tar | zstd -3 | tar of the same files"
_TIMEOUT = 300


class Way:
    """A driver's caches, a host's store, and what is brought from one to the other."""

    def __init__(self, root: Path, site: str) -> None:
        self._root = root
        self._site = site
        self._new = itertools.count()
        self.project = root / "project"
        self.added = root / "added"
        self.added.mkdir()
        scanning.install(self.project, "app", 8, 8)
        shutil.rmtree(self.project / "app-1.0.dist-info")
        (self.project / "pyproject.toml").touch()

    def scan(self) -> Scan:
        """Scan what is to be brought."""
        entry = script_entry(str(self.project / "app/part0/module_0.py"))
        path = [str(self.project), str(self.added), self._site]
        return scan(entry, path=path, cache_dir=self._root / "scans")

    def bring(self, found: Scan, host: Path, packs: Path) -> tuple[int, int]:
        """Bring it to a host; give the bytes that went, and those of them that said what is lacking."""
        with closing(Store(host)) as store:
            head = encode_head(found.manifest)
            wanted = store.offer(head, sys.executable)
            sent = 0
            if not wanted.is_built:
                whole = frames(found, wanted, PackCache(packs))

                def counted() -> Iterator[bytes]:
                    nonlocal sent
                    for frame in whole:
                        sent += len(frame)
                        yield frame

                store.receive(head, sys.executable, counted())
        return sent, len(head)

    def timed(self, found: Scan, host: Path, packs: Path) -> list[float]:
        """Time the same."""
        return measure.timed(lambda: self.bring(found, host, packs))

    def fresh(self) -> Path:
        """Name a directory that is not there yet."""
        return self._root / f"fresh{next(self._new)}"

    def edit(self) -> Scan:
        """Change a line of the project."""
        with open(self.project / "app/part1/module_1.py", "a") as file:
            file.write("x = 1\n")
        return self.scan()

    def with_one_more(self) -> Scan:
        """Install a small package."""
        scanning.install(self.added, f"added{next(self._new)}", 1, 10)
        return self.scan()

    def tar(self) -> list[float]:
        """Time what others would do."""
        target = self.fresh()
        target.mkdir()
        command = 'tar -C "$0" -cf - . | zstd -q -3 -T2 -c | zstd -q -d -c | tar -C "$1" -xf -'
        run = ["sh", "-c", command, self._site, str(target)]
        taken = measure.timed(lambda: subprocess.run(run, check=True, timeout=_TIMEOUT))
        shutil.rmtree(target)
        return taken


def figures(options: Options) -> list[Row]:
    site = os.environ.get("BIGMACHINE_BENCH_SITE") or sysconfig.get_path("purelib")
    with tempfile.TemporaryDirectory(prefix="bigmachine-shipping-") as folder:
        root = Path(folder)
        try:
            return rows(Way(root, site), root, options)
        finally:
            for each in root.iterdir():
                remove(each)


def rows(way: Way, root: Path, options: Options) -> list[Row]:
    time.sleep(1.2)  # what is younger than a second is not relied on
    found = way.scan()
    size = sum(layer.size for layer in found.manifest.layers)
    host, packs = root / "host", root / "packs"

    def cold(cache: Path) -> list[float]:
        target = way.fresh()
        taken = way.timed(found, target, cache)
        remove(target)
        return taken

    def all_anew() -> list[float]:
        cache = way.fresh()
        taken = cold(cache)
        remove(cache)
        return taken

    sent, _ = way.bring(found, host, packs)
    _, head = way.bring(found, host, packs)
    subjects = {"anew": all_anew, "packed": lambda: cold(packs)}
    if shutil.which("zstd"):
        subjects["floor"] = way.tar
    stats = measure.take_turns(options.pick(2, 5), **subjects)
    stats |= measure.take_turns(
        options.pick(5, 20),
        same=lambda: way.timed(found, host, packs),
        edit=lambda: way.timed(way.edit(), host, packs),
        more=lambda: way.timed(way.with_one_more(), host, packs),
    )
    floor = stats.get("floor")
    note = f"{size / 1e6:.0f} MB in {sum(len(layer.files) for layer in found.manifest.layers):,} files"
    return [
        Row("all of it, nothing packed yet", "s", stats["anew"], _FLOOR, floor, note=note),
        Row(
            "all of it, packs of an earlier start",
            "s",
            stats["packed"],
            _FLOOR,
            floor,
            note=f"{sent / 1e6:.0f} MB sent",
        ),
        Row("nothing changed", "s", stats["same"], goals=(Goal("median", 0.06),)),
        Row("nothing changed: what is said", "B", Stat.of([head]), goals=(Goal("median", 16 << 10),)),
        Row("one line of the project edited", "s", stats["edit"], goals=(Goal("median", 0.07),)),
        Row("one small package added", "s", stats["more"], goals=(Goal("median", 0.2),)),
    ]


if __name__ == "__main__":
    measure.run(figures)
