"""Each way to start a program is told from the others, in a real interpreter started that way."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
import zipapp
from collections.abc import Callable
from pathlib import Path

import pytest

from bigmachine.errors import ImageError
from bigmachine.image import Entry, detect
from bigmachine.image.entry import _first_arguments, module_entry, script_entry
from tests.cluster.image.conftest import BARE, GUARDED, PROGRAM, Lab

INLINE = "exec(compile(open('p.py').read(), '<inline>', 'exec'))"


def script(lab: Lab) -> tuple[list[str], dict[str, object]]:
    return [str(lab.write("app.py"))], {"form": "script", "path": lab.root / "app.py"}


def script_by_relative_path(lab: Lab) -> tuple[list[str], dict[str, object]]:
    lab.write("sub/app.py", GUARDED)
    return ["sub/app.py"], {"form": "script", "path": lab.root / "sub/app.py"}


def console_script(lab: Lab) -> tuple[list[str], dict[str, object]]:
    # What pip makes for an entry point; the distribution itself would be in site-packages.
    lab.write("bin/dist/cli.py", PROGRAM.replace("__main__", "dist.cli") + "def main():\n    start()\n")
    lab.write("bin/app", "import sys\nfrom dist.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
    return ["bin/app"], {"form": "script", "path": lab.root / "bin/app"}


def compiled_script(lab: Lab) -> tuple[list[str], dict[str, object]]:
    import py_compile

    py_compile.compile(str(lab.write("app.py")), cfile=str(lab.root / "app.pyc"))
    return ["app.pyc"], {"form": "script", "path": lab.root / "app.pyc"}


def directory(lab: Lab) -> tuple[list[str], dict[str, object]]:
    lab.write("app/__main__.py", GUARDED)
    return ["app"], {"form": "script", "path": lab.root / "app"}


def archive(lab: Lab) -> tuple[list[str], dict[str, object]]:
    lab.write("app/__main__.py", GUARDED)
    zipapp.create_archive(lab.root / "app", lab.root / "app.pyz", interpreter="/usr/bin/env python3")
    return ["app.pyz"], {"form": "script", "path": lab.root / "app.pyz"}


def module(lab: Lab) -> tuple[list[str], dict[str, object]]:
    lab.write("pkg/__init__.py", "")
    lab.write("pkg/app.py", GUARDED)
    return ["-m", "pkg.app"], {"form": "module", "module": "pkg.app"}


def package(lab: Lab) -> tuple[list[str], dict[str, object]]:
    lab.write("pkg/__init__.py", "")
    lab.write("pkg/__main__.py", BARE)
    return ["-m", "pkg"], {"form": "module", "module": "pkg.__main__"}


def namespace_module(lab: Lab) -> tuple[list[str], dict[str, object]]:
    lab.write("space/app.py", GUARDED)
    return ["-m", "space.app"], {"form": "module", "module": "space.app"}


def script_that_will_prompt(lab: Lab) -> tuple[list[str], dict[str, object]]:
    lab.write("app.py", GUARDED)
    return ["-i", "app.py"], {"form": "script", "path": lab.root / "app.py"}


def debugged_script(lab: Lab) -> tuple[list[str], dict[str, object]]:
    lab.write("app.py", GUARDED + "    os._exit(0)\n")
    return ["-m", "pdb", "-c", "continue", "app.py"], {"form": "script", "path": lab.root / "app.py"}


Form = Callable[[Lab], tuple[list[str], dict[str, object]]]

BY_NAME: list[Form] = [
    script,
    script_by_relative_path,
    console_script,
    compiled_script,
    directory,
    archive,
    module,
    package,
    namespace_module,
    script_that_will_prompt,
    debugged_script,
]


@pytest.mark.parametrize("form", BY_NAME, ids=lambda form: form.__name__)
def test_a_main_that_has_a_name_or_file_is_found_and_looks_the_same_on_the_machine(lab: Lab, form: Form) -> None:
    args, expected = form(lab)
    driver = lab.driver(*args, "-n", "3")
    found = driver.entry
    assert {name: getattr(found, name) for name in expected} == {
        name: str(value) if isinstance(value, Path) else value for name, value in expected.items()
    }
    assert not found.by_value
    assert found.calls_start
    machine = lab.machine(driver)["sees"]
    assert isinstance(machine, dict)
    if form is debugged_script:
        # pdb of Python 3.11 leaves these out, which the interpreter does not.
        for name in ("loader", "cached", "package", "builtins"):
            driver.sees[name] = machine[name]
    if found.form == "script":
        assert driver.sees.pop("argv") == [args[-1], "-n", "3"]
        assert machine.pop("argv") == [found.path, "-n", "3"]
    assert machine == driver.sees
    assert machine["is_main"]
    assert machine["pickles"]


LAUNCHED: list[tuple[str, list[str], str]] = [
    ("cProfile", ["-m", "cProfile", "-o", "/dev/null", "sub/app.py"], "script"),
    ("cProfile -m", ["-m", "cProfile", "-o", "/dev/null", "-m", "sub.app"], "module"),
    ("profile", ["-m", "profile", "-o", "/dev/null", "sub/app.py"], "script"),
    ("trace", ["-m", "trace", "--count", "-C", "counts", "sub/app.py"], "script"),
]


@pytest.mark.parametrize(("name", "args", "form"), LAUNCHED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_program_inside_a_launcher_is_run_again_without_it(lab: Lab, name: str, args: list[str], form: str) -> None:
    lab.write("sub/app.py", GUARDED)
    driver = lab.driver(*args, PWD=str(lab.root))
    assert driver.entry.form == form
    assert driver.entry.path == (str(lab.root / "sub/app.py") if form == "script" else None)
    assert driver.entry.module == ("sub.app" if form == "module" else None)
    # Pickle finds its classes by name only where the launcher made it sys.modules["__main__"], as newer Pythons do.
    assert driver.entry.by_value is not driver.sees["is_main"]
    machine = lab.machine(driver)["sees"]
    assert isinstance(machine, dict)
    assert machine["pickles"]
    assert machine["file"] == str(lab.root / "sub/app.py")


def test_code_given_on_the_command_line_is_not_run_again(lab: Lab) -> None:
    lab.write("p.py")
    found = lab.driver("-c", INLINE).entry
    assert found == Entry("none", by_value=True, description="python -c")
    assert not found.calls_start


@pytest.mark.parametrize("args", [[], ["-"], ["/dev/stdin"]], ids=["bare", "dash", "device"])
def test_standard_input_is_not_run_again(lab: Lab, args: list[str]) -> None:
    found = lab.driver(*args, stdin=BARE).entry
    assert found == Entry("none", by_value=True, description="standard input")


def test_a_script_from_a_pipe_is_not_run_again(lab: Lab) -> None:
    app = lab.write("app.py")
    found = lab.collect(lab.launch("bash", "-c", f'"{sys.executable}" <(cat "{app}")')).entry
    assert (found.form, found.by_value) == ("none", True)
    assert "pipe" in str(found)


def test_a_script_from_a_named_pipe_is_not_run_again(lab: Lab) -> None:
    app = lab.write("app.py")
    os.mkfifo(lab.root / "fifo")
    found = lab.collect(lab.launch("bash", "-c", f'cat "{app}" > fifo & "{sys.executable}" fifo; wait')).entry
    assert (found.form, found.by_value) == ("none", True)


def prompt(lab: Lab, *args: str, lines: str) -> None:
    """Type lines at a real terminal's prompt."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=lab.environ("driver", TERM="dumb"),
        cwd=lab.root,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        os.write(ours, lines.encode())
        deadline = time.monotonic() + 30
        while process.poll() is None:
            assert time.monotonic() < deadline, "the prompt did not end"
            # The terminal's buffer is small: what is echoed must be read, or the prompt waits for us.
            if select.select([ours], [], [], 0.05)[0]:
                _read(ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(terminal: int) -> None:
    try:
        os.read(terminal, 65536)
    except OSError:  # its other end is closed: the process is about to end
        time.sleep(0.01)


def test_what_is_typed_at_a_prompt_is_not_run_again(lab: Lab) -> None:
    lab.write("p.py")
    prompt(lab, "-q", lines=f"{INLINE}\nexit()\n")
    assert lab.collect().entry == Entry("none", by_value=True, description="an interactive prompt")


def test_the_prompt_after_a_script_is_a_prompt(lab: Lab) -> None:
    lab.write("p.py")
    lab.write("app.py", "before = 1\n")
    prompt(lab, "-i", "app.py", lines=f"{INLINE}\nexit()\n")
    assert lab.collect().entry == Entry("none", by_value=True, description="an interactive prompt")


@pytest.mark.parametrize(("kernel", "said"), [("", "an IPython prompt"), ("ipykernel", "a Jupyter notebook")])
def test_ipython_and_notebooks_are_not_run_again(lab: Lab, kernel: str, said: str) -> None:
    # A stand-in with the one function that is asked: IPython need not be installed for the tests.
    lab.write("IPython.py", "def get_ipython():\n    return object()\n")
    lab.write("ipykernel.py", "")
    lab.write("app.py", f"import IPython, {kernel or 'os'}\n{BARE}")
    assert lab.driver("app.py").entry == Entry("none", by_value=True, description=said)


def test_a_script_that_only_imports_ipython_is_a_script(lab: Lab) -> None:
    lab.write("IPython.py", "def get_ipython():\n    return None\n")
    lab.write("app.py", f"import IPython\n{BARE}")
    assert lab.driver("app.py").entry.form == "script"


TESTED = PROGRAM + "def test_it():\n    start()\n"


@pytest.mark.parametrize("args", [["-m", "pytest"], ["-c", "import sys, pytest; sys.exit(pytest.main())"]])
def test_pytest_is_not_run_again_and_its_classes_go_by_name(lab: Lab, args: list[str]) -> None:
    lab.write("test_app.py", TESTED)
    lab.write("pytest.ini", "[pytest]\n")
    assert lab.driver(*args, "-q", "-p", "no:cacheprovider", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1").entry == Entry(
        "none", description="pytest"
    )


def test_this_very_test_is_seen_as_pytest() -> None:
    assert detect() == Entry("none", description="pytest")


def test_a_program_that_a_test_starts_is_not_taken_for_a_test(lab: Lab) -> None:
    lab.write("app.py", "import pytest, _pytest.config\n" + BARE)
    found = lab.driver("app.py", PYTEST_CURRENT_TEST="x.py::test (call)", PYTEST_VERSION="9").entry
    assert found.form == "script"


def test_unittest_is_not_run_again_and_its_classes_go_by_name(lab: Lab) -> None:
    case = "import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        start()\n"
    lab.write("test_app.py", PROGRAM + case)
    assert lab.driver("-m", "unittest", "test_app").entry == Entry("none", description="python -m unittest")


MULTIPROCESSING = """
if __name__ == "__main__":
    import multiprocessing
    process = multiprocessing.get_context({method!r}).Process(target=start)
    process.start()
    process.join()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("how", [["sub/app.py"], ["-m", "sub.app"]], ids=["script", "module"])
def test_a_spawned_child_loads_its_main_with_the_guard_shut_and_so_does_the_machine(
    lab: Lab, method: str, how: list[str]
) -> None:
    lab.write("sub/app.py", PROGRAM + MULTIPROCESSING.format(method=method))
    driver = lab.driver(*how)
    assert driver.entry.run_name == "__mp_main__"
    assert driver.entry.form == ("module" if how[0] == "-m" else "script")
    assert not driver.entry.by_value
    assert not driver.entry.calls_start
    assert driver.sees["pickles"]
    machine = lab.left(lab.run_again(driver.entry, driver))
    assert machine["name"] == "__mp_main__"
    assert machine["module"] == "__mp_main__"


def test_the_main_of_a_forked_child_is_not_run_again(lab: Lab) -> None:
    lab.write("app.py", PROGRAM + MULTIPROCESSING.format(method="fork"))
    assert lab.driver("app.py").entry == Entry("none", by_value=True, description="a child of multiprocessing")


def test_a_script_that_vanished_is_named_with_a_remedy(lab: Lab) -> None:
    lab.write("app.py", "import os\nos.remove(__file__)\n" + BARE)
    done = lab.launch(sys.executable, "app.py")
    assert "bigmachine.errors.ImageError: the program's main file" in done.stderr
    assert str(lab.root / "app.py") in done.stderr
    assert "image=Image()" in done.stderr


def test_the_path_is_spelled_as_the_program_sees_it(lab: Lab) -> None:
    lab.write("sub/app.py")
    driver = lab.driver("./sub/../sub/app.py")
    assert driver.entry.path == driver.sees["file"] == f"{lab.root}/./sub/../sub/app.py"


def test_a_relative_main_is_found_where_the_program_began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bigmachine.image.entry import _program

    (tmp_path / "app.py").touch()
    monkeypatch.chdir("/")
    monkeypatch.setenv("PWD", str(tmp_path))
    found = _program({"__file__": "app.py"})
    assert found is not None
    assert found.path == str(tmp_path / "app.py")


def test_a_relative_main_that_is_nowhere_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bigmachine.image.entry import _program

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match=r"app\.py is not there"):
        _program({"__file__": "app.py"})


def test_a_machine_detects_the_same_main_as_its_driver(lab: Lab) -> None:
    lab.write(
        "app.py", BARE.replace("leave(sees=sees())", "from bigmachine.image import detect; leave(e=str(detect()))")
    )
    driver = lab.driver("app.py")
    assert lab.machine(driver)["e"] == str(driver.entry) == f"script {lab.root / 'app.py'}"


@pytest.mark.parametrize(
    ("argv", "arguments"),
    [
        (["python", "app.py", "-v", "x"], ("-v", "x")),
        (["python", "./app.py"], ()),
        (["python", "-m", "pkg.app", "-v"], None),
        (["python", "-m", "coverage", "run", "app.py", "-v"], None),
        (["python", "other.py", "-v"], None),
        (["python", "-c", "app.py"], None),
        (["python"], None),
        ([], None),
    ],
)
def test_a_script_began_with_what_stands_behind_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, argv: list[str], arguments: tuple[str, ...] | None
) -> None:
    path = lab.write("app.py")
    monkeypatch.setattr(sys, "orig_argv", argv)
    monkeypatch.setattr("bigmachine.image.entry._first_directory", str(lab.root))
    assert _first_arguments(script_entry(str(path))) == arguments


@pytest.mark.parametrize(
    ("argv", "module", "arguments"),
    [
        (["python", "-m", "pkg.app", "-v"], "pkg.app", ("-v",)),
        (["python", "-um", "pkg", "-v"], "pkg.__main__", ("-v",)),
        (["python", "-m", "runner", "pkg.app"], "pkg.app", None),
        (["python", "-m"], "pkg.app", None),
        (["python", "pkg/app.py"], "pkg.app", None),
    ],
)
def test_a_module_began_with_what_stands_behind_its_name(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], module: str, arguments: tuple[str, ...] | None
) -> None:
    monkeypatch.setattr(sys, "orig_argv", argv)
    assert _first_arguments(module_entry(module)) == arguments
