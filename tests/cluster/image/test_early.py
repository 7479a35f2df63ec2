"""Programs start before their image is whole: what has come is read at once, and what has not is waited for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from bigmachine.errors import ImageError
from bigmachine.image import packs
from bigmachine.image.manifest import MARK
from bigmachine.image.packs import FIRST, verify
from bigmachine.image.plan import encode_head
from bigmachine.image.scan.scanned import Scan
from bigmachine.image.store import early, early_starts
from bigmachine.image.store.store import Built, EarlyStart, Store
from tests.cluster.image import sent
from tests.cluster.image.installed import Environment, write

TIMEOUT = 15.0
#: Long enough to see that something waits.
A_MOMENT = 0.3
LARGE = 9 << 20

pytestmark = pytest.mark.skipif(early.patience() == 0, reason="this system cannot hold a file until it has come")


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scan:
    """Two packages and a project, of which one module has been loaded by the driver."""
    monkeypatch.setattr(packs, "_LARGE_IMAGE", 1)
    monkeypatch.setattr(early_starts, "_WORTHWHILE", 1)
    monkeypatch.setattr(early_starts, "_ENOUGH", 1)
    monkeypatch.setattr(early_starts, "_SOON", 1e9)
    env = Environment(tmp_path)
    env.install("small", {f"small/module_{number}.py": f"x = {number}\n" * 50 for number in range(20)})
    env.install("large", {"large/__init__.py": "x = 7\n", "large/table.bin": os.urandom(LARGE // 2).hex()})
    write(tmp_path / "project", {"pyproject.toml": "", "app.py": "x = 1\n", "empty.txt": ""})
    found = env.scan(env.site, tmp_path / "project")
    names = ("site/small/module_0.py", "site/large/__init__.py")
    found.first = frozenset(
        (layer.id, file.path) for layer in found.manifest.layers for file in layer.files if file.path in names
    )
    return found


class Way:
    """An image on its way to a host: frames are taken in one by one, when they are let through."""

    def __init__(self, found: Scan, host: Store, cache: Path) -> None:
        self._head = encode_head(found.manifest)
        self._host = host
        self._queue: queue.Queue[bytes | Exception | None] = queue.Queue()
        self._pool = ThreadPoolExecutor(1)
        self.frames = sent.packed(found, host, cache)
        self.ready: Future[str] = Future()
        self.broken: Future[str] = Future()
        self.built = self._pool.submit(self._receive)

    def _receive(self) -> Built:
        start = EarlyStart(self.ready.set_result, self.broken.set_result)
        return self._host.receive(self._head, sys.executable, self._let_through(), early=start)

    def _let_through(self) -> Iterator[bytes]:
        while (each := self._queue.get(timeout=TIMEOUT)) is not None:
            if isinstance(each, Exception):
                raise each
            yield each

    def first(self) -> str:
        """Let through what comes first; gives where programs can start then."""
        while verify(self.frames[0])[0] != FIRST:
            self._queue.put(self.frames.pop(0))
        self._queue.put(self.frames.pop(0))
        return self.ready.result(TIMEOUT)

    def put(self, *frames: bytes | Exception | None) -> None:
        for each in frames:
            self._queue.put(each)

    def rest(self) -> Built:
        """Let through all that is left; gives what was built of it."""
        self.put(*self.frames, None)
        return self.built.result(TIMEOUT)

    def close(self) -> None:
        self._queue.put(None)
        self._pool.shutdown()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Store]:
    with sent.store(tmp_path / "host") as host:
        yield host


@pytest.fixture
def way(scan: Scan, host: Store, tmp_path: Path) -> Iterator[Way]:
    with contextlib.closing(Way(scan, host, tmp_path / "cache")) as way:
        yield way


@contextlib.contextmanager
def reader(root: str, path: str) -> Iterator[subprocess.Popen[str]]:
    """Read a file in a process that knows nothing of us."""
    site = next(Path(root).glob("lib/python*/site-packages"))
    with subprocess.Popen(["sha256sum", str(site / path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def waits(process: subprocess.Popen[str]) -> bool:
    try:
        process.wait(A_MOMENT)
    except subprocess.TimeoutExpired:
        return True
    return False


def digest_of(scan: Scan, path: str) -> str:
    return next(file.sha256 for layer in scan.manifest.layers for file in layer.files if file.path == f"site/{path}")


def test_a_program_starts_with_what_has_come(way: Way, scan: Scan) -> None:
    root = way.first()
    assert sent.run(root, "python", "-c", "import small.module_0 as m, large; print(m.x + large.x)") == "7"
    assert json.loads(Path(root, MARK).read_text())["digest"] == scan.manifest.digest


@pytest.mark.parametrize("path", ["small/module_7.py", "large/table.bin"])
def test_what_has_not_come_is_waited_for_by_whoever_opens_it(way: Way, scan: Scan, path: str) -> None:
    root = way.first()
    with reader(root, path) as process:
        assert waits(process)
        way.rest()
        assert process.stdout is not None
        assert process.stdout.read(64) == digest_of(scan, path)


def test_an_import_waits_too_and_its_byte_code_stays_valid(way: Way) -> None:
    root = way.first()
    code = "import small.module_7 as m; print(m.x, m.__spec__.cached)"
    threading.Timer(A_MOMENT, lambda: way.put(*way.frames, None)).start()
    value, cached = sent.run(root, "python", "-c", code).split()
    assert value == "7"
    way.built.result(TIMEOUT)
    before = Path(cached).stat().st_mtime_ns
    sent.run(root, "python", "-c", code)
    assert Path(cached).stat().st_mtime_ns == before


def test_whoever_looks_sees_a_whole_environment(way: Way, scan: Scan) -> None:
    root = way.first()
    places = [scan.place_of(layer, file) for layer in scan.manifest.layers for file in layer.files]
    before = {place: Path(root, place).lstat() for place in places}
    built = way.rest()
    for place, status in before.items():
        assert Path(built.root, place).lstat().st_size == status.st_size, place
        assert Path(built.root, place).lstat().st_mode == status.st_mode, place
    for layer in scan.manifest.layers:
        for file in layer.files:
            content = Path(root, scan.place_of(layer, file)).read_bytes()
            assert hashlib.sha256(content).hexdigest() == file.sha256, file.path


def test_nobody_else_takes_it_for_the_image(way: Way, scan: Scan, host: Store, tmp_path: Path) -> None:
    root = way.first()
    with sent.store(tmp_path / "host") as other:
        # Another process would wait for what arrives here; what it is told of the image does not depend on that.
        assert not Path(other.root / "images" / f"{scan.manifest.digest}-{Path(root).name[65:73]}" / MARK).exists()
    assert way.rest().root != root


def test_after_a_broken_connection_the_same_environment_is_completed(
    way: Way, scan: Scan, host: Store, tmp_path: Path
) -> None:
    root = way.first()
    way.put(way.frames[0], OSError("the connection broke"))
    with pytest.raises(ImageError):
        way.built.result(TIMEOUT)
    with reader(root, "large/table.bin") as process:
        assert waits(process)
        sent.send(scan, host, tmp_path / "cache")
        assert process.stdout is not None
        assert process.stdout.read(64) == digest_of(scan, "large/table.bin")


def test_what_came_to_the_host_in_another_way_is_filled_in(way: Way, scan: Scan, tmp_path: Path) -> None:
    root = way.first()
    with sent.store(tmp_path / "elsewhere") as elsewhere:
        built = sent.send(scan, elsewhere, tmp_path / "cache")
        layers = tmp_path / "host" / "v1" / "layers"
        for layer in scan.manifest.layers:
            shutil.copytree(elsewhere.root / "layers" / layer.id, layers / layer.id, symlinks=True)
            shutil.copy(elsewhere.root / "layers" / f"{layer.id}.json", layers)
    way.put(None)  # nothing more comes here
    assert way.built.result(TIMEOUT).digest == built.digest
    with reader(root, "large/table.bin") as process:
        assert process.stdout is not None
        assert process.stdout.read(64) == digest_of(scan, "large/table.bin")


def test_content_that_is_wrong_is_never_read(way: Way, scan: Scan) -> None:
    root = way.first()
    at = next(at for at, each in enumerate(way.frames) if verify(each)[0] == packs.PACK)
    head, content = packs.open_pack(verify(way.frames[at])[1])
    spoilt = bytes([content[0] ^ 1]) + bytes(content[1:])
    bad = packs.frame(packs.PACK, packs.close_pack(head, spoilt))
    layer = next(each for each in scan.manifest.layers if each.id == head["layer"])
    path = layer.files[head["parts"][0][0]].path.removeprefix("site/")
    with reader(root, path) as process:
        assert waits(process)
        way.put(*way.frames[:at], bad, *way.frames[at + 1 :], None)
        with pytest.raises(ImageError, match="is not what its listing says"):
            way.built.result(TIMEOUT)
        assert waits(process)


def test_a_file_that_does_not_come_is_told_before_the_kernel_would_let_it_be_read(
    scan: Scan, host: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_starts, "patience", lambda: 1.0)
    with contextlib.closing(Way(scan, host, tmp_path / "cache")) as way:
        root = way.first()
        with reader(root, "small/module_3.py") as process:
            assert "small/module_3.py" in way.broken.result(TIMEOUT)
            assert waits(process)
        way.rest()


@pytest.mark.parametrize("why", ["no lease", "time"])
def test_where_files_cannot_be_held_for_long_enough_programs_wait_for_the_whole_image(
    scan: Scan, host: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "time":
        monkeypatch.setattr(early_starts, "_SOON", 0.0)  # it comes too slowly
    else:
        monkeypatch.setattr(early, "_F_SETSIG", -1)  # as on a file system that knows no leases
    with contextlib.closing(Way(scan, host, tmp_path / "cache")) as way:
        built = way.rest()
        assert not way.ready.done()
    assert sent.run(built.root, "python", "-c", "import small.module_7 as m; print(m.x)") == "7"
    assert [path.name for path in (host.root / "images").iterdir() if path.is_dir()] == [Path(built.root).name]


def test_what_an_agent_left_that_was_killed_goes_with_the_next_image(way: Way, host: Store) -> None:
    root = Path(way.first())
    left = root.with_name(f"{'0' * 64}-12345678.1-abcdef01{root.suffix}")
    left.mkdir()
    way.rest()
    assert not left.exists()
    assert root.is_dir()


def test_it_goes_when_the_agent_ends(scan: Scan, tmp_path: Path) -> None:
    with sent.store(tmp_path / "host") as host, contextlib.closing(Way(scan, host, tmp_path / "cache")) as way:
        root = way.first()
        way.rest()
        assert Path(root).is_dir()
    assert not Path(root).exists()
