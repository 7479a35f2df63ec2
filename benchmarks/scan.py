"""Scanning the program into an image: 15,000 installed files and a project of 64, again and after small changes."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import measure
from measure import Goal, Options, Row

from bigmachine.image.entry import script_entry
from bigmachine.image.scan.scan import scan

PACKAGES, FOLDERS, FILES = 60, 25, 10
_FLOOR = "os.stat of every one of these files and folders"


def install(site: Path, name: str, folders: int = FOLDERS, files: int = FILES) -> None:
    """Install a package of that many folders of that many files, with its RECORD."""
    rows = []
    for folder, number in itertools.product(range(folders), range(files)):
        path = f"{name}/part{folder}/module_{number}.py"
        text = f"# {path}\n".encode() * 20
        target = site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text)}")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\n")
    (info / "WHEEL").write_text("Root-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/METADATA,,", f"{info.name}/WHEEL,,", ""]))


def figures(options: Options) -> list[Row]:
    n = options.pick(5, 30)
    with tempfile.TemporaryDirectory(prefix="bigmachine-scan-") as folder:
        root = Path(folder)
        site, project = root / "env/lib/python3/site-packages", root / "project"
        for number in range(PACKAGES):
            install(site, f"package{number}")
        install(project, "app", 8, 8)
        shutil.rmtree(project / "app-1.0.dist-info")
        (project / "pyproject.toml").touch()
        time.sleep(1.2)  # what is younger than a second is not relied on
        return rows(root, site, project, n)


def rows(root: Path, site: Path, project: Path, n: int) -> list[Row]:
    entry = script_entry(str(project / "app/part0/module_0.py"))
    fresh, added = (root / f"cache{number}" for number in itertools.count()), itertools.count()
    paths = list(everything(site, project))

    def scanned(cache: Path) -> list[float]:
        return measure.timed(lambda: scan(entry, path=[str(project), str(site)], cache_dir=cache))

    def edited() -> list[float]:
        with open(project / "app/part1/module_1.py", "a") as file:
            file.write("x = 1\n")
        return scanned(root / "cache")

    def with_one_more() -> list[float]:
        install(site, f"added{next(added)}", 1, 10)
        return scanned(root / "cache")

    stats = measure.take_turns(
        n,
        floor=lambda: measure.timed(lambda: [os.stat(path) for path in paths]),
        same=lambda: scanned(root / "cache"),
        edit=edited,
    )
    stats |= measure.take_turns(options_few(n), first=lambda: scanned(next(fresh)), more=with_one_more)
    floor = stats["floor"]
    return [
        Row("nothing changed", "s", stats["same"], _FLOOR, floor, (Goal("median", 0.05),)),
        Row("one line of the project edited", "s", stats["edit"], _FLOOR, floor, (Goal("median", 0.06),)),
        Row("one small package added", "s", stats["more"], _FLOOR, floor),
        Row("the first time", "s", stats["first"], _FLOOR, floor),
    ]


def options_few(n: int) -> int:
    """Return how often to measure what takes long."""
    return max(3, n // 5)


def everything(*roots: Path) -> Iterator[str]:
    for root in roots:
        for folder, _, names in os.walk(root):
            yield folder
            yield from (os.path.join(folder, name) for name in names)


if __name__ == "__main__":
    print(f"{PACKAGES * FOLDERS * FILES} files in {PACKAGES * FOLDERS} folders", file=sys.stderr)
    measure.run(figures)
