"""The agent's kit: what is in it, what it is called, and that an agent can be run from it alone."""

from __future__ import annotations

import concurrent.futures
import json
import re
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
from pathlib import Path

import pytest

from bigmachine.image.bundles.bundle import Bundle, Part, kept_bundle
from bigmachine.image.bundles.kit import SITE, kit_bundle
from bigmachine.image.platforms import this_platform

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def kit(cache: Path) -> Bundle:
    return kit_bundle(this_platform(), cache=cache)


def test_an_agent_imports_all_it_needs_from_the_kit_alone(kit: Bundle, tmp_path: Path) -> None:
    with tarfile.open(kit.path) as tar:
        tar.extractall(tmp_path, filter="tar")
    program = f"""if True:
        import sys
        sys.path.insert(0, {str(tmp_path / SITE)!r})
        import bigmachine.agent.main, bigmachine.agent.run, bigmachine.agent.supervisor, bigmachine.agent.images
        import bigmachine.image.store.store, bigmachine.image.depot, bigmachine.agent.watch.pyspy
        import bigmachine.agent.watch.notices
        import bigmachine.rpc.http.http1, bigmachine.rpc.http.http2, bigmachine.trust.request, psutil, zstandard
        zstandard.ZstdCompressor().compress(b"x")
        import json
        outside = [m.__file__ for m in sys.modules.values() if "site-packages" in (getattr(m, "__file__", "") or "")]
        compiled = [m.__cached__ for n, m in sys.modules.items() if n.startswith("bigmachine.")]
        print(json.dumps([outside, compiled]))
    """
    code = tmp_path / SITE / "bigmachine" / "agent" / "__pycache__"
    before = {path: path.stat().st_mtime_ns for path in code.iterdir()}
    done = subprocess.run([sys.executable, "-ISc", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    outside, compiled = json.loads(done.stdout)
    assert outside == []
    assert all(Path(path).is_file() for path in compiled)
    assert {path: path.stat().st_mtime_ns for path in code.iterdir()} == before  # nothing was compiled anew


def test_it_is_a_few_megabytes_and_has_no_tests_in_it(kit: Bundle) -> None:
    assert kit.size < 5 << 20
    with tarfile.open(kit.path) as tar:
        names = tar.getnames()
    assert not [name for name in names if "/tests/" in name or name.endswith((".pyi", ".c"))]
    assert kit.unpacked < 12 << 20


def test_it_has_the_rooms_that_an_agent_may_import_and_none_above(kit: Bundle) -> None:
    """The layers are import-linter's: what lies above the agent it cannot import, so it needs none of it."""
    layers = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = [set(re.findall(r"\w+", layer)) for layer in layers]
    at = next(number for number, layer in enumerate(rooms) if "agent" in layer)
    with tarfile.open(kit.path) as tar:
        found = {
            name.split("/")[2].removesuffix(".py") for name in tar.getnames() if name.startswith("site/bigmachine/")
        }
    assert found - {"__pycache__", "__init__", "py.typed"} == set[str]().union(*rooms[at:])


def test_its_name_follows_from_its_files_alone(kit: Bundle, tmp_path: Path) -> None:
    assert kit_bundle(this_platform(), cache=tmp_path).id == kit.id


def test_it_is_packed_once(kit: Bundle, cache: Path) -> None:
    before = kit.path.stat().st_ino
    assert kit_bundle(this_platform(), cache=cache) == kit
    assert kit.path.stat().st_ino == before


def test_one_that_is_damaged_on_the_drivers_disk_is_packed_anew(tmp_path: Path) -> None:
    packed = kept_bundle("kits", "key", tmp_path, lambda: [Part("one", bytes(range(256)))])
    good = packed.path.read_bytes()
    assert packed.whole() is packed
    packed.path.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    assert packed.whole() == packed
    assert packed.path.read_bytes() == good
    packed.path.unlink()
    assert packed.whole().path.read_bytes() == good


def test_only_the_latest_bundles_stay(tmp_path: Path) -> None:
    made = [kept_bundle("kits", str(n), tmp_path, lambda: [Part("a", b"x")]) for n in range(12)]
    assert [bundle.path.exists() for bundle in made] == [False] * 4 + [True] * 8


def test_several_at_once_pack_it_once(tmp_path: Path) -> None:
    packed = []

    def build() -> list[Part]:
        packed.append(threading.get_ident())
        time.sleep(0.2)
        return [Part("a", b"x")]

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        made = [pool.submit(kept_bundle, "kits", "key", tmp_path, build) for _ in range(6)]
    assert len({future.result() for future in made}) == 1
    assert len(packed) == 1
    assert sorted(path.suffix for path in (tmp_path / "bundles").iterdir()) == [".gz", ".json"]


def test_byte_code_is_not_part_of_the_name(tmp_path: Path) -> None:
    source = Part("a.py", b"x = 1")
    with_code = kept_bundle("kits", "1", tmp_path, lambda: [source, Part("a.pyc", b"?", derived=True)])
    assert with_code.id == kept_bundle("kits", "2", tmp_path, lambda: [source]).id
