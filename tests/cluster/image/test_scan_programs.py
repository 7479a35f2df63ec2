"""Programs of every form are scanned by themselves, and what they have loaded is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.image.conftest import SOURCE_ROOT
from tests.cluster.image.installed import write

#: Leaves on standard output what the scan of this very program found.
SCAN = """
import json, os, sys
from pathlib import Path
import bigmachine
from bigmachine.image import detect
from bigmachine.image.scan.scan import scan

found = scan(detect(), cache_dir=Path(os.environ["CACHE"]))
first = sorted(found.place_of(layer, file) for layer in found.manifest.layers for file in layer.files
               if (layer.id, file.path) in found.first)
print(json.dumps({
    "main": found.relocate(detect().path) if detect().path else None,
    "trees": {layer.mount: [file.path for file in layer.files] for layer in found.manifest.layers if layer.mount},
    "sys_path": found.manifest.sys_path,
    "first": first,
    "cwd": found.relocate(os.getcwd()),
}))
"""


class Program:
    """Runs a program in a folder of its own, where HOME is, and says what its scan found."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.home.mkdir()

    def __call__(self, *args: str | Path, cwd: Path | None = None, stdin: str = "", **env: str) -> dict[str, Any]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV"))}
        own = {"PYTHONPATH": SOURCE_ROOT, "HOME": str(self.home), "CACHE": str(self.root / "cache")}
        done = subprocess.run(
            args,
            cwd=cwd or self.home,
            env=kept | own | env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert isinstance(told, dict)
        return told


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def own_tree(found: dict[str, Any]) -> list[str]:
    """Return the files of the one tree that is not ours."""
    (only,) = (files for files in found["trees"].values() if "bigmachine/__init__.py" not in files)
    assert isinstance(only, list)
    return only


def test_a_script_in_a_home_directory_takes_its_modules_only(program: Program) -> None:
    write(program.home, {"run.py": f"import helper\n{SCAN}", "helper.py": "", "private.txt": "", ".env": ""})
    found = program(sys.executable, "run.py")
    assert own_tree(found) == ["helper.py", "run.py"]
    assert found["main"] == "roots/0-home/run.py"
    assert "roots/0-home/helper.py" in found["first"]


def test_a_module_takes_its_project(program: Program) -> None:
    write(program.home / "proj", {"setup.py": "", "pkg/__init__.py": "", "pkg/app.py": SCAN, "data.txt": ""})
    found = program(sys.executable, "-m", "pkg.app", cwd=program.home / "proj")
    assert own_tree(found) == ["data.txt", "pkg/__init__.py", "pkg/app.py", "setup.py"]
    assert found["cwd"] == found["sys_path"][0] == "roots/0-proj"


def test_code_of_the_command_line_takes_what_it_imported_here(program: Program) -> None:
    write(program.home, {"helper.py": "", "unused.py": ""})
    assert own_tree(program(sys.executable, "-c", f"import helper\n{SCAN}")) == ["helper.py"]
    assert own_tree(program(sys.executable, "-", stdin=f"import helper\n{SCAN}")) == ["helper.py"]


def test_a_prompt_that_went_elsewhere_takes_what_it_imported_there(program: Program, tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", {"helper.py": "", "unused.py": ""})
    code = f"import bigmachine, os; os.chdir({str(elsewhere)!r}); import helper\n{SCAN}"
    found = program(sys.executable, "-c", code)
    assert own_tree(found) == ["helper.py"]
    assert found["cwd"] == found["sys_path"][0]


def test_a_zipapp_is_one_file(program: Program) -> None:
    with zipfile.ZipFile(program.home / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", SCAN)
    found = program(sys.executable, "app.pyz")
    assert own_tree(found) == ["app.pyz"]
    assert found["main"] == "roots/0-app.pyz/app.pyz"


def test_a_console_script_is_made_on_the_machine(program: Program) -> None:
    site = program.root / "env/lib/python3.11/site-packages"
    info = {"METADATA": "Name: tool\n", "entry_points.txt": "[console_scripts]\ntool = tool:main\n"}
    write(site / "tool-1.dist-info", info | {"RECORD": "tool.py,,\ntool-1.dist-info/entry_points.txt,,\n"})
    write(site, {"tool.py": f"def main():\n{''.join('    ' + line for line in SCAN.splitlines(True))}"})
    write(program.root / "env/bin", {"tool": "import tool\ntool.main()\n", "unrelated": ""})
    found = program(sys.executable, program.root / "env/bin/tool", PYTHONPATH=os.pathsep.join([SOURCE_ROOT, str(site)]))
    assert found["main"] == "bin/tool"
    assert all("bigmachine/__init__.py" in files for files in found["trees"].values())
    assert f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages/tool.py" in found["first"]


def test_tests_take_their_project(program: Program) -> None:
    body = "".join("    " + line for line in SCAN.splitlines(True))
    write(
        program.home / "proj",
        {
            "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '-p no:cacheprovider --capture=sys -q'\n",
            "tests/conftest.py": "",
            "tests/test_it.py": "def test_it(capsys):\n    with capsys.disabled():\n"
            + "".join("    " + line for line in body.splitlines(True)),
        },
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest"],
        cwd=program.home / "proj",
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))},
            "PYTHONPATH": SOURCE_ROOT,
            "HOME": str(program.home),
            "CACHE": str(program.root / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert own_tree(found) == ["pyproject.toml", "tests/conftest.py", "tests/test_it.py"]
    (mount,) = (mount for mount, files in found["trees"].items() if "pyproject.toml" in files)
    assert f"{mount}/tests" in found["sys_path"]


def test_without_bigmachine_on_the_path_it_comes_along(program: Program, tmp_path: Path) -> None:
    write(program.home, {"run.py": f"import sys\nsys.path.remove({SOURCE_ROOT!r})\n{SCAN}"})
    code = f"import bigmachine.image.scan.scan\n{(program.home / 'run.py').read_text()}"
    (program.home / "run.py").write_text(code)
    found = program(sys.executable, "run.py")
    (mount,) = (mount for mount, files in found["trees"].items() if "bigmachine/__init__.py" in files)
    assert mount in found["sys_path"]
