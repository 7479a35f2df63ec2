"""Programs that are made to find their libraries beside themselves, run for real."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bigmachine.image.bundles.bundle import needed_glibc
from bigmachine.image.bundles.elf import search_paths
from bigmachine.image.bundles.elf_edit import NotMovable, stripped, with_rpath, without_runpath

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ELF is Linux's")

COMPILER = shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")


def build(folder: Path, *options: str) -> tuple[Path, Path]:
    """Build a program, a library that it loads, and one that this needs; each is in a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "deep.c").write_text("int deep(void) { return 42; }")
    (folder / "near.c").write_text("int deep(void); int near(void) { return deep(); }")
    (folder / "main.c").write_text("int near(void); int main(void) { return near(); }")
    compiler = [str(COMPILER), "-shared", "-fPIC"]
    lib = folder / "elsewhere"
    lib.mkdir()
    subprocess.run([*compiler, "-o", lib / "libdeep.so", folder / "deep.c"], check=True)
    subprocess.run(
        [*compiler, "-o", lib / "libnear.so", folder / "near.c", f"-L{lib}", "-ldeep", f"-Wl,-rpath,{lib}"], check=True
    )
    subprocess.run(
        [str(COMPILER), "-o", folder / "program", folder / "main.c", f"-L{lib}", "-lnear", *options], check=True
    )
    return folder / "program", lib


@needs_compiler
@pytest.mark.parametrize("had", ["none", "short", "long"])
def test_a_moved_program_finds_the_libraries_beside_it_and_those_that_these_need(tmp_path: Path, had: str) -> None:
    paths = {"none": [], "short": ["-Wl,-rpath,/x"], "long": ["-Wl,-rpath,/nowhere/that/is/as/long"]}
    options = ["-Wl,--build-id", "-Wl,-rpath-link," + str(tmp_path / "built" / "elsewhere"), *paths[had]]
    program, lib = build(tmp_path / "built", *options)
    moved = tmp_path / "moved"
    (moved / "bin").mkdir(parents=True)
    (moved / "lib").mkdir()
    for library in lib.iterdir():
        (moved / "lib" / library.name).write_bytes(without_runpath(stripped(library.read_bytes())))
    there = moved / "bin" / "program"
    there.write_bytes(with_rpath(stripped(program.read_bytes()), "$ORIGIN/../lib"))
    there.chmod(0o700)
    shutil.rmtree(tmp_path / "built")
    assert subprocess.run([there], check=False, env={}).returncode == 42


@needs_compiler
def test_a_library_forgets_where_it_looked(tmp_path: Path) -> None:
    _, lib = build(tmp_path / "built", "-Wl,-rpath-link," + str(tmp_path / "built" / "elsewhere"))
    library = tmp_path / "libnear.so"
    library.write_bytes(without_runpath((lib / "libnear.so").read_bytes()))
    assert search_paths(str(lib / "libnear.so")) == [str(lib)]
    assert search_paths(str(library)) == []


@needs_compiler
def test_a_program_without_room_is_refused(tmp_path: Path) -> None:
    options = ["-Wl,--build-id=none", "-Wl,-rpath-link," + str(tmp_path / "built" / "elsewhere")]
    program, _ = build(tmp_path / "built", *options)
    with pytest.raises(NotMovable, match="build id"):
        with_rpath(program.read_bytes(), "$ORIGIN/../lib")


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(100)])
def test_what_is_no_program_for_64_bits_is_refused_or_left_alone(content: bytes) -> None:
    with pytest.raises(NotMovable):
        with_rpath(content, "$ORIGIN/../lib")
    assert without_runpath(content) == content
    assert stripped(content) == content


def test_the_c_library_that_a_file_needs_is_read_from_its_versions() -> None:
    assert needed_glibc(b"\x7fELF..GLIBC_2.4\0GLIBC_2.17\0GLIBC_2.9\0") == (2, 17)
    assert needed_glibc(b"GLIBC_2.17") == (0, 0)
    assert needed_glibc(Path(sys.executable).resolve().read_bytes()) >= (2, 2)
