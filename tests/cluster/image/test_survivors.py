"""What the end of a host cut off is seen at its next start, and sent again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigmachine.errors import ImageError
from bigmachine.image.scan.scanned import Scan
from bigmachine.image.store.store import Built
from bigmachine.image.store.stored import SEALED_NS
from bigmachine.image.store.survivors import last_start
from tests.cluster.image import sent
from tests.cluster.image.installed import Environment, write

PROGRAM = "import one, two; print(one.x + two.x)"


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    env = Environment(tmp_path)
    env.install("one", {"one/__init__.py": "x = 1\n"})
    env.install("two", {"two.py": "x = 2\n"})
    write(tmp_path / "project", {"pyproject.toml": "", "app.py": "x = 1\n"})
    return env


@pytest.fixture
def scan(env: Environment, tmp_path: Path) -> Scan:
    return env.scan(env.site, tmp_path / "project")


@pytest.fixture
def built(scan: Scan, tmp_path: Path) -> Iterator[Built]:
    """An image on a host that started anew since."""
    with sent.store(tmp_path / "host") as host:
        yield sent.send(scan, host, tmp_path / "packs")


def starts_anew(host: Path) -> None:
    """Make everything look as if it had been written before the host started."""
    before = last_start() - 1000
    for path in host.rglob("*"):
        if path.lstat().st_mtime_ns != SEALED_NS:  # which is older still
            os.utime(path, (before, before), follow_symlinks=False)


def cut_off(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"")
    path.chmod(0o444)


def sends_again(scan: Scan, tmp_path: Path) -> Built:
    with sent.store(tmp_path / "host") as host:
        built = sent.send(scan, host, tmp_path / "packs")
        assert sent.run(built.root, "python", "-c", PROGRAM) == "3"
        assert sent.wanted(scan, host).is_built
        return built


def test_what_is_whole_is_used_as_it_is(scan: Scan, built: Built, tmp_path: Path) -> None:
    starts_anew(tmp_path / "host")
    with sent.store(tmp_path / "host") as host:
        told = sent.wanted(scan, host)
        assert (told.is_built, told.layers) == (True, ())
    assert Path(built.root, "bigmachine-image.json").stat().st_mtime > last_start()


@pytest.mark.parametrize("name", ["one/__init__.py", "two.py", "one-1.0.dist-info/RECORD"])
def test_a_layer_whose_files_were_cut_off_comes_again(scan: Scan, built: Built, tmp_path: Path, name: str) -> None:
    (path,) = (tmp_path / "host/v1/layers").glob(f"*/site/{name}")
    cut_off(path)
    starts_anew(tmp_path / "host")
    with sent.store(tmp_path / "host") as host:
        told = sent.wanted(scan, host)
        assert (told.is_built, len(told.layers)) == (False, 1)
    sends_again(scan, tmp_path)


@pytest.mark.parametrize("name", ["pyvenv.cfg", "bigmachine-image.json"])
def test_an_image_whose_own_files_were_cut_off_is_built_again(
    scan: Scan, built: Built, tmp_path: Path, name: str
) -> None:
    cut_off(Path(built.root, name))
    starts_anew(tmp_path / "host")
    assert sends_again(scan, tmp_path).taken == 0


def test_a_list_that_was_cut_off_is_sent_again_with_its_layer(scan: Scan, built: Built, tmp_path: Path) -> None:
    for listing in (tmp_path / "host/v1/layers").glob("*.json"):
        cut_off(listing)
    starts_anew(tmp_path / "host")
    sends_again(scan, tmp_path)


def test_a_content_that_was_cut_off_is_not_used(env: Environment, scan: Scan, built: Built, tmp_path: Path) -> None:
    """All trees that have it share it."""
    (path,) = Path(built.root).glob("roots/*/app.py")
    cut_off(path)
    starts_anew(tmp_path / "host")
    (tmp_path / "project/new.py").write_text("x = 3\n")
    again = sends_again(env.scan(env.site, tmp_path / "project"), tmp_path)
    (path,) = Path(again.root).glob("roots/*/app.py")
    assert path.read_text() == "x = 1\n"


def test_an_image_of_other_layers_that_were_cut_off_is_not_used_either(
    env: Environment, scan: Scan, built: Built, tmp_path: Path
) -> None:
    """It has hard links to the very files."""
    (tmp_path / "project/app.py").write_text("x = 2222\n")
    other = env.scan(env.site, tmp_path / "project")
    with sent.store(tmp_path / "host") as host:
        sent.send(other, host, tmp_path / "packs")
    (path,) = (tmp_path / "host/v1/layers").glob("*/site/two.py")
    cut_off(path)
    starts_anew(tmp_path / "host")
    sends_again(scan, tmp_path)
    sends_again(other, tmp_path)


def test_what_came_half_before_comes_again(scan: Scan, tmp_path: Path) -> None:
    with sent.store(tmp_path / "host") as host:
        whole = sent.packed(scan, host, tmp_path / "packs")
        with pytest.raises(ImageError):
            sent.receive(scan, host, _breaks(whole))
        assert sent.wanted(scan, host).arrived
    starts_anew(tmp_path / "host")
    with sent.store(tmp_path / "host") as host:
        assert not sent.wanted(scan, host).arrived
    sends_again(scan, tmp_path)


def _breaks(whole: list[bytes]) -> Iterator[bytes]:
    yield from whole
    raise ConnectionResetError("the sender died")
