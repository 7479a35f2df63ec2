"""A program of 425 MB to a host by ssh that has nothing of it; and 20 MB to eight hosts beside one.

Needs the lab of the tests (tests/labs/ssh): root, and the scripts that make it. Both ends share this computer's cores.

The large program imports NumPy, SciPy, pandas, pyarrow and scikit-learn. Their environment is made once with pip, below
the user's cache directory; BIGMACHINE_BENCH_VENV names another that has them and the ssh client. The driver has packed
it before, as after any first start. The floor is what others would do, `tar | zstd -3 | ssh HOST 'zstd -d | tar -x'`
of the same files, without verification, an interpreter or a program that runs afterwards.

The eight hosts have a link of 100 Mbit each, and all but 20 MB that no compression makes smaller: they pass it on to
each other. The time is from the first that asks for it to the last that has it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measure
from measure import Goal, Options, Row, Stat

from bigmachine.image.scan.cache import cache_directory, private_directory

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.labs import lean
from tests.labs.ssh.lab import Lab, NoLab, bring_up

_PROJECT = Path(__file__).parents[1]
_PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "scikit-learn")
_MODULES = "numpy,scipy.optimize,pandas,pyarrow.parquet,sklearn.ensemble"
_FLOOR = "tar | zstd -3 | ssh | tar of the same files"
#: Seconds that tar took where the goals were set, and the goals.
_TAR, _FIRST, _ALL = 3.5, 4.0, 5.0
_HOSTS, _RATE, _BULK = 8, "100mbit", 20_000_000
_WAY = ("shipping", "assembling", "shipping the rest")
_TIMEOUT = 200


class NotHere(Exception):
    """An environment cannot be made here; the text says why."""


def environment() -> Path:
    """Give the interpreter of an environment with the large packages.

    Raises:
        NotHere: if there is none, and none can be made.
    """
    given = os.environ.get("BIGMACHINE_BENCH_VENV")
    folder = Path(given) if given else cache_directory() / "bench" / f"large-{sys.implementation.cache_tag}"
    python = folder / "bin/python"
    if not given and not (folder / "whole").is_file():
        _make(folder)
    probe = [str(python), "-c", f"import asyncssh, {_MODULES}"]
    try:
        done = subprocess.run(probe, check=False, capture_output=True, text=True, timeout=_TIMEOUT)
    except OSError as error:
        raise NotHere(f"{python}: {error.strerror}") from error
    if done.returncode:
        raise NotHere(f"{folder} lacks something: {done.stderr.strip().splitlines()[-1]}")
    return python


def _make(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    private_directory(folder.parent)
    python = lean.make(folder, _PROJECT, "asyncssh")
    print(f"making {folder}, once", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *_PACKAGES]
    try:
        done = subprocess.run(pip, check=False, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired as error:
        raise NotHere("pip took more than a quarter of an hour") from error
    if done.returncode:
        raise NotHere(f"pip: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    (folder / "whole").touch()


class Large:
    """The large program on its way to host 1, which has nothing of it."""

    def __init__(self, lab: Lab, python: Path) -> None:
        self._lab = lab
        self._python = python
        self.there: list[float] = []
        self.sent = 0

    def bring(self) -> list[float]:
        """Bring it; gives the seconds until a machine answered."""
        self._clear()
        with _driven_by(self._lab, self._python):
            told = _run(self._lab, "lab@{1}", 1, _MODULES)
        self.there.append(told["there"])
        self.sent = sum(sent for _, phase, _, _, sent in told["spans"] if phase in _WAY)
        return [told["answered"]]

    def tar(self) -> list[float]:
        """Time what others would do."""
        self._clear()
        site = next(self._python.parents[1].glob("lib/python*/site-packages"))
        there = shlex.quote("cd bench && zstd -dq | tar -xf -")
        command = (
            f"tar -C {shlex.quote(str(site.parent))} -cf - site-packages | zstd -q -3 -T2 -c"
            f" | ssh -F {self._lab.config} lab@{self._lab.name(1)} {there}"
        )
        return measure.timed(
            lambda: self._lab.netlab("exec", "0", "bash", "-o", "pipefail", "-c", command, timeout=_TIMEOUT)
        )

    def _clear(self) -> None:
        self._lab.on(1, "chmod -R u+w ~/.cache 2>/dev/null; rm -rf ~/.cache ~/bench; mkdir ~/bench", user="lab")
        os.sync()  # what is removed is the turn's before


class Bulk:
    """20 MB on their way to hosts that have all the rest of the program."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.copies = 0.0
        self.hosts = [f"lab@{{{number}}}" for number in range(1, _HOSTS + 1)]
        _run(lab, ",".join(self.hosts), _HOSTS, "")
        for number in range(1, _HOSTS + 1):
            lab.netlab("rate", str(number), _RATE)

    def one(self) -> list[float]:
        """Bring them to one host."""
        return [self._bring(self.hosts[:1])]

    def eight(self) -> list[float]:
        """Bring them to all."""
        return [self._bring(self.hosts)]

    def _bring(self, hosts: list[str]) -> float:
        folder = self._lab.home / "bulk"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number in range(20):
            (folder / f"data-{number}.bin").write_bytes(os.urandom(_BULK // 20))
        os.sync()
        told = _run(self._lab, ",".join(hosts), len(hosts), "", folder)
        way = [(began, began + seconds, sent) for _, phase, began, seconds, sent in told["spans"] if phase in _WAY]
        self.copies = sum(sent for *_, sent in way) / _BULK
        return max(end for _, end, _ in way) - min(began for began, *_ in way)


@contextmanager
def _driven_by(lab: Lab, python: Path) -> Iterator[None]:
    own, lab.driver_python = lab.driver_python, python
    try:
        yield
    finally:
        lab.driver_python = own


def _run(lab: Lab, hosts: str, count: int, modules: str, *path: Path) -> dict[str, Any]:
    """Run the program; gives what it said."""
    environ = {"PYTHONPATH": ":".join(map(str, (_PROJECT / "src", *path)))}
    program = lab.programs / "brought.py"
    out = lab.run(program, str(count), modules, hosts=hosts, timeout=_TIMEOUT, environ=environ).out
    told: dict[str, Any] = json.loads(out)
    return told


def figures(options: Options) -> list[Row]:
    try:
        lab = bring_up(_HOSTS)
    except NoLab as reason:
        raise SystemExit(f"not measured: {reason}") from reason
    try:
        shutil.copy(Path(__file__).with_name("brought.py"), lab.programs)
        time.sleep(1.2)  # what is younger than a second is not relied on
        return [*large(lab, options), *bulk(lab, options)]
    finally:
        lab.down()


def large(lab: Lab, options: Options) -> list[Row]:
    try:
        python = environment()
        if shutil.which("zstd") is None:
            raise NotHere("there is no zstd for the floor")
    except NotHere as reason:
        print(f"the large program is left out: {reason}", file=sys.stderr)
        return []
    subject = Large(lab, python)
    stats = measure.take_turns(options.pick(1, 3), floor=subject.tar, first=subject.bring)
    there, floor = Stat.of(subject.there[1:]), stats["floor"]  # the first turn is the warm-up
    goals = {at: (Goal("median", at), Goal("ratio", at / _TAR)) for at in (_FIRST, _ALL)}
    note = f"{subject.sent / 1e6:.0f} MB sent"
    name = "cold host, 425 MB"
    return [
        Row(f"{name}: start to the first call answered", "s", stats["first"], _FLOOR, floor, goals[_FIRST], note=note),
        Row(f"{name}: start to all of it there", "s", there, _FLOOR, floor, goals[_ALL]),
    ]


def bulk(lab: Lab, options: Options) -> list[Row]:
    subject = Bulk(lab)
    stats = measure.take_turns(options.pick(1, 3), one=subject.one, eight=subject.eight)
    note = f"the driver sent {subject.copies:.2f} copies"
    name = f"20 MB to eight hosts at {_RATE} each"
    return [Row(name, "s", stats["eight"], "one such host", stats["one"], (Goal("ratio", 2.0),), note=note)]


if __name__ == "__main__":
    measure.run(figures)
