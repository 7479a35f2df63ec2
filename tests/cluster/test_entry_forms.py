"""A program in each form in which Python can be told to run one becomes its own cluster, without a change."""

from __future__ import annotations

import sys
import sysconfig
import venv
import zipapp
from pathlib import Path

import pytest

from tests.cluster.probe import FUNCTION, GUARD, PROGRAM, SERVICE, seen_in
from tests.cluster.programs import IMPORTABLE, RunProgram, WriteProgram


@pytest.fixture
def package(write: WriteProgram) -> Path:
    """Return a folder with a package `pkg`, whose `pkg.app` can be run and whose service is defined elsewhere."""
    write("home/pkg/__init__.py", "")
    write("home/pkg/service.py", SERVICE)
    write("home/pkg/app.py", "from .service import Probe, Trouble, bigmachine, json, os\n" + FUNCTION + GUARD)
    return write("home/pkg/__main__.py", "from .app import main\nmain()\n").parents[1]


def test_script_without_a_guard(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app.py", PROGRAM)
    seen = seen_in(run_program(path).out)
    assert (seen["main"], seen["file"], seen["module"]) == ("__main__", str(path), "__main__")


def test_script_with_a_guard(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app.py", SERVICE + FUNCTION + GUARD)
    assert seen_in(run_program(path).out)["file"] == str(path)


def test_script_by_a_relative_path(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("sub/app.py", PROGRAM)
    assert seen_in(run_program("sub/app.py").out)["file"] == str(path)


def test_script_in_a_folder_with_spaces(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("my own programs/the app.py", PROGRAM)
    seen = seen_in(run_program("the app.py", cwd=path.parent).out)
    assert (seen["file"], seen["cwd"]) == (str(path), str(path.parent))


def test_script_by_a_link(run_program: RunProgram, write: WriteProgram, tmp_path: Path) -> None:
    write("lib/beside.py", "")
    (tmp_path / "link.py").symlink_to(write("lib/app.py", "import beside\n" + PROGRAM))
    assert seen_in(run_program("link.py").out)["module"] == "__main__"


def test_script_that_changes_its_directory_before_start(
    run_program: RunProgram, write: WriteProgram, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    write("beside.py", "")
    write("beside.txt", "")
    moves = "import os, beside\nopen('beside.txt').close()\nos.chdir('elsewhere')\n"
    path = write("app.py", "import bigmachine\n" + moves + PROGRAM)
    seen = seen_in(run_program("app.py").out)
    assert (seen["file"], seen["cwd"]) == (str(path), str(tmp_path / "elsewhere"))


def test_script_that_changes_its_directory_after_start(
    run_program: RunProgram, write: WriteProgram, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    write("app.py", PROGRAM.replace("    machine, =", "    os.chdir('elsewhere')\n    machine, ="))
    assert seen_in(run_program("app.py").out)["cwd"] == str(tmp_path / "elsewhere")


def test_module(run_program: RunProgram, package: Path) -> None:
    seen = seen_in(run_program("-m", "pkg.app", cwd=package).out)
    assert (seen["file"], seen["module"]) == (str(package / "pkg/app.py"), "pkg.service")


def test_package(run_program: RunProgram, package: Path) -> None:
    assert seen_in(run_program("-m", "pkg", cwd=package).out)["file"] == str(package / "pkg/__main__.py")


def test_folder_with_a_main(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app/__main__.py", PROGRAM)
    assert seen_in(run_program(path.parent).out)["file"] == str(path)


def test_archive(run_program: RunProgram, package: Path, tmp_path: Path) -> None:
    zipapp.create_archive(package, tmp_path / "app.pyz", main="pkg.app:main")
    assert seen_in(run_program("app.pyz").out)["module"] == "pkg.service"


def test_console_script_of_a_virtual_environment(
    run_program: RunProgram, package: Path, write: WriteProgram, tmp_path: Path
) -> None:
    place = tmp_path / "env"
    venv.create(place, symlinks=True, with_pip=False)
    python = place / "bin/python"
    packages = place.joinpath("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
    # What an editable installation leaves there.
    (packages / "app.pth").write_text(f"{package}\n{IMPORTABLE}\n{sysconfig.get_path('purelib')}\n")
    script = write(
        "env/bin/app",
        f"#!{python}\nimport sys\nfrom pkg.app import main\nif __name__ == '__main__':\n    sys.exit(main())\n",
    )
    script.chmod(0o755)
    seen = seen_in(run_program("-v", executable=script, environ={"PYTHONPATH": ""}).out)
    assert (seen["argv"], seen["executable"], seen["module"]) == ([str(script), "-v"], str(python), "pkg.service")


def test_c(run_program: RunProgram) -> None:
    seen = seen_in(run_program("-c", PROGRAM, "x", "y").out)
    assert (seen["argv"], seen["module"]) == (["-c", "x", "y"], "__main__")


def test_standard_input(run_program: RunProgram) -> None:
    assert seen_in(run_program("-", "x", stdin=PROGRAM).out)["argv"] == ["-", "x"]


def test_script_of_an_isolated_interpreter(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app.py", f"import sys\nsys.path.insert(0, {IMPORTABLE!r})\n" + PROGRAM)
    assert seen_in(run_program("-I", path, environ={"PYTHONPATH": "/nowhere"}).out)["file"] == str(path)


def test_driver_start_inside_a_function_called_by_an_imported_module(
    run_program: RunProgram, write: WriteProgram
) -> None:
    write("library.py", SERVICE + FUNCTION)
    path = write("app.py", "import library\nlibrary.main()\n")
    seen = seen_in(run_program(path).out)
    assert (seen["file"], seen["module"]) == (str(path), "library")


@pytest.mark.parametrize(
    "run",
    [
        "async def run(): main()\nimport asyncio; asyncio.run(run())",
        "async def run(): main()\nimport uvloop; uvloop.run(run())",
        "import threading; thread = threading.Thread(target=main); thread.start(); thread.join()",
        "import concurrent.futures as futures\nwith futures.ThreadPoolExecutor() as pool: pool.submit(main).result()",
    ],
    ids=["in a coroutine", "in a coroutine of uvloop", "in a thread", "in a pool"],
)
def test_start_is_called(run_program: RunProgram, write: WriteProgram, run: str) -> None:
    if "uvloop" in run:
        pytest.importorskip("uvloop")
    path = write("app.py", f"{SERVICE}\n{FUNCTION}\n{run}\n")
    assert seen_in(run_program(path).out)["file"] == str(path)
