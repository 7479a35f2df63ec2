"""A driver makes the image of a machine of another platform, from a real package index where one can be reached."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bigmachine.errors import ImageError
from bigmachine.image.image import Image
from bigmachine.image.manifest import Platform
from bigmachine.image.platforms import this_platform
from bigmachine.image.scan.placed import compiled
from tests.cluster.image.installed import Environment, layer, names, paths, write

OURS = this_platform()
ARM = Platform("3.11.9", "cpython-311-aarch64-linux-gnu", "Linux", "aarch64", "glibc 2.36")
pytestmark = pytest.mark.skipif(OURS.machine == ARM.machine, reason="needs a driver of another machine than ARM64")

COMPILED = "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-linux_x86_64\n"


def compiled_package(env: Environment, name: str, version: str, **more: tuple[str, ...]) -> None:
    folder = name.replace("-", "_")
    env.install(name, {f"{folder}/__init__.py": "", f"{folder}/_x.so": "x86"}, version=version, wheel=COMPILED, **more)  # type: ignore[arg-type] # only tuples are passed on


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    env = Environment(tmp_path)
    env.install("pure", {"pure.py": ""}, requires=("markupsafe>=2",))
    return env


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where there is no uv, or no package index that it can reach."""
    # That of this environment, which need not be on the path.
    uv = shutil.which("uv", path=os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"])))
    if uv is None:
        pytest.skip("needs uv (pip install uv)")
    asked = tmp_path_factory.mktemp("index") / "asked.in"
    asked.write_text("markupsafe\n")
    try:
        done = subprocess.run([uv, "pip", "compile", "-q", asked], capture_output=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("needs a package index that answers")
    if done.returncode:
        pytest.skip("needs a package index that uv can reach")


def machine_of(path: str) -> str:
    """Return what an ELF file is for (elf.h: e_machine)."""
    with open(path, "rb") as file:
        head = file.read(20)
    assert head[:4] == b"\x7fELF"
    return {62: "x86_64", 183: "aarch64"}[int.from_bytes(head[18:20], "little")]


@pytest.mark.usefixtures("index")
def test_compiled_packages_are_those_of_the_machine_in_the_version_that_is_installed_here(env: Environment) -> None:
    compiled_package(env, "markupsafe", "2.1.5")
    here, there = env.scan(), env.scan(target=ARM)
    assert layer(here, "pure").id == layer(there, "pure").id
    foreign = layer(there, "markupsafe")
    assert (foreign.kind, foreign.version) == ("foreign", "2.1.5")
    libraries = compiled(foreign.files)
    assert libraries
    assert {machine_of(there.sources.path(foreign.id, path)) for path in libraries} == {"aarch64"}
    assert there.manifest.platform == ARM
    assert there.manifest.digest != here.manifest.digest
    assert env.scan(target=ARM).manifest.digest == there.manifest.digest


@pytest.mark.usefixtures("index")
def test_a_local_version_is_asked_for_without_its_local_part(env: Environment) -> None:
    compiled_package(env, "markupsafe", "2.1.5+local")
    assert layer(env.scan(target=ARM), "markupsafe").version == "2.1.5"


@pytest.mark.usefixtures("index")
def test_another_python_gets_its_own_files(env: Environment) -> None:
    compiled_package(env, "markupsafe", "2.1.5")
    target = dataclasses.replace(ARM, python="3.12.4", abi="cpython-312-aarch64-linux-gnu")
    found = env.scan(target=target)
    assert any("cpython-312-aarch64" in path for path in paths(found, "markupsafe"))
    assert found.relocate(str(env.site)) == "lib/python3.12/site-packages"


@pytest.mark.usefixtures("index")
def test_a_package_without_a_wheel_is_an_error_that_names_it_and_the_remedy(env: Environment) -> None:
    compiled_package(env, "docopt", "0.6.2")  # which its authors never built one of
    with pytest.raises(ImageError, match=r"docopt cannot be had for Linux on aarch64.*without=\['docopt'\]"):
        env.scan(target=ARM)
    assert "docopt" not in names(env.scan(target=ARM, image=Image(without=["docopt"])))


@pytest.mark.usefixtures("index")
def test_an_image_can_have_packages_that_are_not_installed_here(env: Environment) -> None:
    env.install("six", {"six.py": "old"}, version="1.15.0")
    found = env.scan(image=Image(packages=["six==1.16.0", "idna"]))
    assert layer(found, "six").version == "1.16.0"
    assert "site/idna/__init__.py" in paths(found, "idna")
    assert "pure" in names(found)
    assert found.manifest.platform == OURS


def test_a_machine_that_can_load_our_files_gets_them(env: Environment) -> None:
    compiled_package(env, "markupsafe", "2.1.5")
    newer = dataclasses.replace(OURS, libc="glibc 9.0") if OURS.libc.startswith("glibc") else OURS
    assert env.scan(target=newer).manifest == env.scan().manifest


@pytest.mark.skipif(not OURS.libc.startswith("glibc"), reason="needs glibc")
def test_wheels_that_were_built_for_older_c_libraries_go_to_hosts_that_have_one(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = f"Root-Is-Purelib: false\nTag: cp311-cp311-manylinux_2_28_{OURS.machine}\n"
    env.install("markupsafe", {"markupsafe/__init__.py": "", "markupsafe/_x.so": ""}, version="2.1.5", wheel=wheel)
    monkeypatch.setenv("PATH", "/nowhere")  # so that nothing could be looked up
    monkeypatch.setitem(__import__("sys").modules, "uv", None)
    older = dataclasses.replace(OURS, libc="glibc 2.28")
    assert env.scan(target=older).manifest.layers == env.scan().manifest.layers
    with pytest.raises(ImageError, match="pip install uv"):
        env.scan(target=dataclasses.replace(OURS, libc="glibc 2.27"))


def test_compiled_files_of_a_project_are_an_error_that_names_one(env: Environment, tmp_path: Path) -> None:
    lib = write(tmp_path / "lib", {"fast.cpython-311-x86_64-linux-gnu.so": ""})
    with pytest.raises(ImageError, match=rf"{lib}/fast.*\.so is compiled for this platform.*exclude"):
        env.scan(env.site, lib, target=ARM)


def test_without_uv_it_is_said_that_it_is_needed(env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(__import__("sys").modules, "uv", None)
    with pytest.raises(ImageError, match="pip install uv"):
        env.scan(target=ARM)


def test_an_index_that_cannot_be_reached_is_an_error_and_leaves_nothing(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uv")
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_CACHE_DIR", str(env.root / "uv"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(ImageError, match=r"resolve: .*Linux on aarch64"):
        env.scan(target=ARM)
    assert not list((env.root / "cache/foreign").iterdir())
