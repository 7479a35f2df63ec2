"""What the program has loaded goes first, with byte code that needs no look at its source."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigmachine.image.bytecode import unchecked
from bigmachine.image.scan.scanned import Scan
from tests.cluster.image.installed import Environment, layer, sha256, write

SOURCE = "def where():\n    return where.__code__.co_filename\n"


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


@pytest.fixture
def scanned(env: Environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scan]:
    """A package of which one module is imported and one is not."""
    env.install("bm_loaded", {"bm_loaded/__init__.py": SOURCE, "bm_loaded/other.py": "", "bm_loaded.libs/x.so": ""})
    monkeypatch.syspath_prepend(str(env.site))
    importlib.import_module("bm_loaded")
    yield env.scan()
    del sys.modules["bm_loaded"]


def test_what_is_imported_goes_first_with_the_libraries_beside_it(scanned: Scan) -> None:
    own = layer(scanned, "bm-loaded").id
    assert {path for number, path in scanned.first if number == own} == {
        "site/bm_loaded/__init__.py",
        "site/bm_loaded.libs/x.so",
    }


def test_only_imported_modules_have_byte_code(scanned: Scan) -> None:
    tree = layer(scanned, "bm-loaded")
    compiled = {file.path for file in tree.files if scanned.bytecode(tree, file) is not None}
    assert compiled == {"site/bm_loaded/__init__.py"}


def run_elsewhere(root: Path, code: bytes, source: str) -> str:
    """Put the byte code beside another source of another age, and say what an import runs."""
    write(root, {"bm_mod.py": source, "__pycache__/x": ""})
    Path(importlib.util.cache_from_source(str(root / "bm_mod.py"))).write_bytes(code)
    line = f"import sys; sys.path.insert(0, {str(root)!r}); import bm_mod; print(bm_mod.where())"
    done = subprocess.run([sys.executable, "-I", "-c", line], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_byte_code_of_the_driver_is_run_on_the_machine_whatever_the_age_of_its_source(tmp_path: Path) -> None:
    import py_compile

    source = write(tmp_path / "here", {"m.py": SOURCE}) / "m.py"
    py_compile.compile(str(source), doraise=True)
    code = unchecked(str(source), sha256(SOURCE), None)
    assert code is not None
    # The source there does not even compile: what ran is the byte code, under the name that it has there.
    assert run_elsewhere(tmp_path / "there", code, "not python") == str(tmp_path / "there/bm_mod.py")


def test_without_byte_code_here_it_is_compiled_and_kept(tmp_path: Path) -> None:
    source = write(tmp_path / "here", {"m.py": SOURCE}) / "m.py"
    code = unchecked(str(source), sha256(SOURCE), tmp_path / "cache")
    assert code is not None
    assert run_elsewhere(tmp_path / "there", code, "not python") == str(tmp_path / "there/bm_mod.py")
    (kept,) = (tmp_path / "cache/pyc").iterdir()
    assert unchecked(str(source), sha256(SOURCE), tmp_path / "cache") == code
    kept.write_bytes(kept.read_bytes()[:-1])  # damaged: it is compiled again
    assert unchecked(str(source), sha256(SOURCE), tmp_path / "cache") == code


def test_stale_byte_code_is_not_sent(tmp_path: Path) -> None:
    import py_compile

    source = write(tmp_path, {"m.py": "x = 1\n"}) / "m.py"
    py_compile.compile(str(source), doraise=True)
    source.write_text(SOURCE)
    os.utime(source, (1, 1))
    code = unchecked(str(source), sha256(SOURCE), None)
    assert code is not None
    assert run_elsewhere(tmp_path / "there", code, "not python") == str(tmp_path / "there/bm_mod.py")


def test_a_source_that_changed_or_went_away_has_none(tmp_path: Path) -> None:
    source = write(tmp_path, {"m.py": SOURCE, "broken.py": "def"})
    assert unchecked(str(source / "m.py"), sha256("other"), None) is None
    assert unchecked(str(source / "gone.py"), sha256(SOURCE), None) is None
    assert unchecked(str(source / "broken.py"), sha256("def"), None) is None
