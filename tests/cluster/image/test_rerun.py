"""A main that is run again is the real one, shows its source in tracebacks, and names what is missing."""

from __future__ import annotations

import sys

import pytest

from bigmachine.image import Entry, program_traceback
from tests.cluster.image.conftest import BARE, GUARDED, PROGRAM, SOURCE_ROOT, Lab, Seen

ANYWHERE: dict[str, object] = {}


def at(lab: Lab, entry: Entry) -> Seen:
    return Seen(entry, ANYWHERE, [str(lab.root), SOURCE_ROOT, *sys.path[1:]])


def script(lab: Lab, text: str = BARE, name: str = "app.py") -> Seen:
    return at(lab, Entry("script", path=str(lab.write(name, text))))


@pytest.mark.parametrize("form", ["script", "module", "archive"])
def test_the_traceback_shows_the_programs_source_and_none_of_ours(lab: Lab, form: str) -> None:
    if form == "script":
        seen = script(lab)
    elif form == "module":
        lab.write("pkg/app.py", GUARDED)
        seen = at(lab, Entry("module", module="pkg.app"))
    else:
        import zipapp

        lab.write("app/__main__.py", BARE)
        zipapp.create_archive(lab.root / "app", lab.root / "app.pyz")
        seen = at(lab, Entry("script", path=str(lab.root / "app.pyz")))
    done = lab.run_again(seen.entry, seen, FAIL="1")
    assert done.returncode == 3
    assert 'raise ZeroDivisionError("the line above is shown")' in done.stderr
    assert "in <module>" in done.stderr
    assert "rerun.py" not in done.stderr
    assert done.stderr.startswith("Traceback (most recent call last):")


def test_a_syntax_error_is_shown_where_it_is_and_without_our_frames(lab: Lab) -> None:
    seen = script(lab, "x = 1\ny = = 2\n")
    done = lab.run_again(seen.entry, seen)
    assert "SyntaxError" in done.stderr
    assert "y = = 2" in done.stderr
    assert f'"{lab.root / "app.py"}", line 2' in done.stderr
    assert "rerun.py" not in done.stderr


def test_an_error_that_did_not_pass_the_main_has_no_frames_for_the_user() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("x")
    assert program_traceback(caught.value) is None


def test_a_main_that_ends_by_itself_returns_with_its_globals_in_place(lab: Lab) -> None:
    seen = script(lab, "class Service: pass\nvalue: int = 3\n")
    left = lab.left(lab.run_again(seen.entry, seen))
    assert left["name"] == "__main__"
    assert left["module"] == "__main__"
    names = left["returned"]
    assert isinstance(names, list)
    assert "value" in names
    assert "boot" not in names  # of the process's first main


def test_where_nothing_is_run_again_main_is_left_empty(lab: Lab) -> None:
    left = lab.left(lab.run_again(Entry("none")))
    names = left["returned"]
    assert isinstance(names, list)
    assert all(name.startswith("__") for name in names)


def test_the_exit_of_a_main_passes_through(lab: Lab) -> None:
    seen = script(lab, "import sys\nsys.exit(7)\n")
    assert lab.run_again(seen.entry, seen).returncode == 7


def test_the_main_inherits_no_future_import_from_us(lab: Lab) -> None:
    # rerun.py postpones annotations, so this fails unless the compiler is told to begin anew.
    seen = script(lab, PROGRAM + "def f(x: int): pass\nassert f.__annotations__ == {'x': int}\nstart()\n")
    assert "sees" in lab.machine(seen)


def test_the_encoding_that_a_script_declares_is_used(lab: Lab) -> None:
    text = "# -*- coding: latin-1 -*-\nassert '\xe9' == chr(0xe9)\n"
    file = lab.root / "app.py"
    file.write_bytes(text.encode("latin-1"))
    done = lab.run_again(Entry("script", path=str(file)))
    assert done.returncode == 0, done.stderr


def test_a_script_that_is_not_on_the_machine_is_named_with_a_remedy(lab: Lab) -> None:
    done = lab.run_again(Entry("script", path="/nowhere/app.py"))
    assert "ImageError: script /nowhere/app.py is not there: keep it" in done.stderr


def test_a_directory_without_a_main_is_named(lab: Lab) -> None:
    (lab.root / "empty").mkdir()
    done = lab.run_again(Entry("script", path=str(lab.root / "empty")))
    assert "empty has no __main__.py to run" in done.stderr


@pytest.mark.parametrize("name", ["nowhere", "nowhere.app", "pkg.nowhere", "pkg"])
def test_a_module_that_is_not_on_the_machine_is_named_with_a_remedy(lab: Lab, name: str) -> None:
    lab.write("pkg/__init__.py", "")
    seen = at(lab, Entry("module", module=name))
    done = lab.run_again(seen.entry, seen)
    assert "ImageError: module " + name in done.stderr
    assert "is it installed there" in done.stderr


@pytest.mark.parametrize("name", ["pkg", "pkg.app"])
def test_what_a_module_itself_cannot_import_is_its_own_error(lab: Lab, name: str) -> None:
    lab.write("pkg/__init__.py", "import lacking" if name == "pkg.app" else "")
    lab.write("pkg/__main__.py", "import lacking")
    lab.write("pkg/app.py", "")
    seen = at(lab, Entry("module", module=name))
    done = lab.run_again(seen.entry, seen)
    assert done.stderr.rstrip().endswith("ModuleNotFoundError: No module named 'lacking'")


def test_a_module_without_python_code_is_named(lab: Lab) -> None:
    done = lab.run_again(Entry("module", module="math"))
    assert "ImageError" in done.stderr
    assert "math" in done.stderr


def test_an_entry_that_names_nothing_is_an_error(lab: Lab) -> None:
    done = lab.run_again(Entry("script"))
    assert "ImageError" in done.stderr
    assert "names no script" in done.stderr
