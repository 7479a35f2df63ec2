"""An image says what a machine is to run instead of this program."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import bigmachine.image
from bigmachine.errors import ImageError
from bigmachine.image import Entry, Image, interpreter_args
from tests.cluster.image.conftest import SOURCE_ROOT, Lab


def test_an_image_without_a_main_runs_nothing_but_the_services() -> None:
    found = Image().entry()
    assert (found.form, found.by_value, found.calls_start) == ("none", True, False)


def test_a_program_is_kept_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.py").touch()
    monkeypatch.chdir(tmp_path)
    image = Image(program="other.py")
    monkeypatch.chdir("/")
    found = image.entry()
    assert (found.form, found.path) == ("script", str(tmp_path / "other.py"))


def test_the_classes_of_our_main_are_not_in_another_program(tmp_path: Path) -> None:
    (tmp_path / "other.py").touch()
    assert Image(program=tmp_path / "other.py").entry().by_value
    assert Image(module="other.app").entry().by_value


def test_the_classes_of_our_main_are_in_an_image_of_ourselves(lab: Lab) -> None:
    code = "from bigmachine.image import Image\nentry = Image(program=__file__, args=['-x']).entry()\n"
    lab.write("app.py", code + "print(entry.by_value, entry)\n")
    done = lab.launch(sys.executable, "./app.py")
    assert done.stdout == f"False script {lab.root / 'app.py'}\n", done.stderr


def test_a_package_is_ourselves_if_we_are_its_main(lab: Lab) -> None:
    code = "from bigmachine.image import Image\nprint(*(Image(module=m).entry().by_value for m in ('pkg', 'other')))\n"
    lab.write("pkg/__main__.py", code)
    assert lab.launch(sys.executable, "-m", "pkg").stdout == "False True\n"


def test_a_vanished_program_is_left_to_the_machine_to_report(tmp_path: Path) -> None:
    file = tmp_path / "other.py"
    file.touch()
    image = Image(program=file)
    file.unlink()
    assert image.entry().path == str(file)


def test_an_interpreter_is_kept_by_its_absolute_path_but_a_name_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Image(python="venv/bin/python").python == str(tmp_path / "venv/bin/python")
    assert Image(python="python3.12").python == "python3.12"


def test_a_module_runs_by_its_name() -> None:
    found = Image(module="pkg.app").entry()
    assert (found.form, found.module, str(found)) == ("module", "pkg.app", "python -m pkg.app")


def test_the_interpreter_is_the_drivers_own_unless_named() -> None:
    assert Image().interpreter() == interpreter_args()
    assert Image(python="/opt/python").interpreter() == ["/opt/python", *interpreter_args()[1:]]


def test_an_image_can_be_pickled_and_compared() -> None:
    image = Image(module="pkg.app", args=["-n", "3"])
    assert pickle.loads(pickle.dumps(image)) == image == Image(module="pkg.app", args=("-n", "3"))


@pytest.mark.parametrize("args", ["-n 3", [1, 2]])
def test_arguments_that_are_no_sequence_of_strings_are_refused(args: object) -> None:
    with pytest.raises(ImageError, match="no sequence of strings"):
        Image(args=args)  # type: ignore[arg-type] # the error that is tested


def test_a_program_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(ImageError, match=r"/nowhere/other\.py is not there"):
        Image(program="/nowhere/other.py")


def test_a_program_and_a_module_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not both"):
        Image(program=tmp_path, module="pkg")


def test_the_public_names_are_these() -> None:
    assert bigmachine.image.__all__ == [
        "Entry", "Form", "Image", "detect", "interpreter_args", "program_traceback", "run", "search_path",
    ]  # fmt: skip


def test_an_entry_survives_pickling() -> None:
    entry = Entry("script", path="/a.py", description="script /a.py")
    assert pickle.loads(pickle.dumps(entry)) == entry


def test_importing_the_room_brings_nothing_heavy() -> None:
    code = """if True:
        import sys, bigmachine.errors
        before = set(sys.modules)
        import bigmachine.image, bigmachine.observe
        heavy = {"subprocess", "runpy", "tempfile", "psutil", "asyncio", "multiprocessing", "pathlib"}
        print(heavy & (set(sys.modules) - before))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": SOURCE_ROOT}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", ["files", "packages", "exclude", "without"])
def test_what_is_a_list_of_strings_must_be_one(name: str) -> None:
    with pytest.raises(ImageError, match=rf"{name}='one' is no sequence of strings: give one such as \['"):
        Image(**{name: "one"})


def test_extra_files_are_absolute_at_once_and_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.bin").touch()
    assert Image(files=[Path("model.bin")]).files == (str(tmp_path / "model.bin"),)
    with pytest.raises(ImageError, match=r"gone.bin is not there"):
        Image(files=["gone.bin"])
