"""The project's own files: what goes, what stays, and what is told."""

from __future__ import annotations

import logging
import os
import re
import socket
from pathlib import Path

import pytest

from bigmachine.errors import ImageError
from bigmachine.image.entry import script_entry
from bigmachine.image.image import Image
from bigmachine.image.manifest import File
from bigmachine.image.scan import trees
from bigmachine.image.scan.scanned import Scan
from tests.cluster.image.installed import Environment, layer, names, paths, sha256, unprivileged, write


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(tmp_path / "proj", {"pyproject.toml": "", "app.py": "", "pkg/__init__.py": "", "pkg/data.csv": "1"})


def scan_script(env: Environment, script: Path, image: Image | None = None, *path: Path) -> Scan:
    return env.scan(script.parent, *path, entry=script_entry(str(script)), image=image)


def test_the_project_around_a_script_goes_and_the_search_path_points_into_it(env: Environment, project: Path) -> None:
    write(project, {"scripts/run.py": "", "data/x.txt": "1"})
    found = scan_script(env, project / "scripts/run.py")
    assert paths(found, "proj") == [
        "app.py",
        "data/x.txt",
        "pkg/__init__.py",
        "pkg/data.csv",
        "pyproject.toml",
        "scripts/run.py",
    ]
    mount = layer(found, "proj").mount
    assert mount == "roots/0-proj"
    assert found.manifest.sys_path[0] == f"{mount}/scripts"
    assert found.relocate(str(project / "scripts/run.py")) == f"{mount}/scripts/run.py"
    assert found.relocate(str(project / "data")) == f"{mount}/data"
    assert found.relocate(str(project)) == mount


def test_version_control_environments_caches_and_builds_stay(env: Environment, project: Path) -> None:
    stays = [
        ".git/config",
        ".venv/x.py",
        "venv/x.py",
        "myenv/pyvenv.cfg",
        "node_modules/x.js",
        "pkg/__pycache__/x.pyc",
        ".mypy_cache/x",
        "build/lib/x.py",
        "dist/x.whl",
        "pkg/foo.egg-info/PKG-INFO",
    ]
    write(project, dict.fromkeys(stays, "") | {"pkg/build/__init__.py": "", "dist_tools/x.py": ""})
    found = paths(scan_script(env, project / "app.py"), "proj")
    assert not set(stays) & set(found)
    assert {"pkg/build/__init__.py", "dist_tools/x.py"} <= set(found)


def test_secrets_stay_even_if_an_ignore_file_asks_for_them(env: Environment, project: Path) -> None:
    secrets = [".env", ".env.local", ".netrc", "certs/server.pem", "id_rsa", "id_ed25519.pub", ".ssh/config", ".aws/x"]
    write(project, dict.fromkeys(secrets, "hush") | {".bigmachineignore": "!.env\n!*.pem\n"})
    (project / "innocent").symlink_to(".env")
    found = scan_script(env, project / "app.py")
    assert not [path for path in paths(found, "proj") if path in secrets]
    assert sha256("hush") not in {file.sha256 for file in layer(found, "proj").files}
    assert found.relocate(str(project / ".env")) is None


def test_what_git_ignores_stays_but_for_a_packages_own_modules(env: Environment, project: Path) -> None:
    ignored = "*.log\n/data/\n_version.py\n*.so\n!keep.log\n"
    files = {
        ".gitignore": ignored,
        "pkg/.gitignore": "local.txt\n",
        "run.log": "",
        "keep.log": "",
        "data/big.bin": "",
        "pkg/_version.py": "",
        "pkg/fast.so": "",
        "pkg/local.txt": "",
        "local.txt": "",
        "_version.py": "",
    }
    write(project, files)
    without_git = set(paths(scan_script(env, project / "app.py"), "proj"))
    assert set(files) <= without_git
    (project / ".git").mkdir()
    found = set(paths(scan_script(env, project / "app.py"), "proj"))
    assert without_git - found == {"run.log", "data/big.bin", "pkg/local.txt", "_version.py"}


def test_gitignore_of_the_repository_above_counts(env: Environment, tmp_path: Path) -> None:
    root = write(
        tmp_path / "repo", {".gitignore": "sub/*.tmp\n", "sub/pyproject.toml": "", "sub/a.tmp": "", "sub/b.py": ""}
    )
    (root / ".git").mkdir()
    assert "a.tmp" not in paths(scan_script(env, root / "sub/b.py"), "sub")


def test_a_bigmachineignore_decides_over_git_and_the_defaults(env: Environment, project: Path) -> None:
    (project / ".git").mkdir()
    rules = {".gitignore": "data/\n", ".bigmachineignore": "!data/\n!build/\ntests/\n"}
    write(project, rules | {"data/x": "", "build/x": "", "tests/x.py": "", "app.txt": ""})
    found = paths(scan_script(env, project / "app.py"), "proj")
    assert {"data/x", "build/x", "app.txt"} <= set(found)
    assert "tests/x.py" not in found


def test_an_image_can_leave_files_here_and_take_others_along(env: Environment, project: Path, tmp_path: Path) -> None:
    write(project, {"big/x.csv": "", ".env": "token", "build/model.bin": "m"})
    outside = write(tmp_path / "models", {"a/weights.bin": "w", ".env": "x"})
    single = write(tmp_path, {"one.txt": "1"}) / "one.txt"
    image = Image(exclude=["*.csv"], files=[project / ".env", project / "build", outside, single])
    found = scan_script(env, project / "app.py", image)
    assert {".env", "build/model.bin"} <= set(paths(found, "proj"))
    assert not [path for path in paths(found, "proj") if path.endswith(".csv")]
    assert found.relocate(str(outside / "a/weights.bin")) == f"{layer(found, 'models').mount}/a/weights.bin"
    assert found.relocate(str(single)) == f"{layer(found, 'one.txt').mount}/one.txt"
    assert not [each for each in found.manifest.sys_path if "models" in each or "one" in each]


def test_a_script_in_a_folder_that_is_no_project_takes_only_what_it_imports(
    env: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    write(
        home,
        {
            "pyproject.toml": "",  # even so: nobody's project is a whole home
            "run.py": "import helper\nfrom tools.deep import thing\ndef later():\n    import lazy.part\n",
            "helper.py": "import json, second",
            "second.py": "",
            "tools/__init__.py": "from . import other",
            "tools/deep.py": "",
            "tools/table.csv": "1",
            "lazy/part.py": "",
            "lazy/unused.py": "",
            "Documents/private.txt": "",
            "photos.py": "",
        },
    )
    found = scan_script(env, home / "run.py")
    assert paths(found, "home") == [
        "helper.py",
        "lazy/part.py",
        "run.py",
        "second.py",
        "tools/__init__.py",
        "tools/deep.py",
        "tools/table.csv",
    ]


def test_a_home_directory_on_the_search_path_is_not_sent(
    env: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = write(tmp_path / "home", {"private.txt": "", "unused.py": ""})
    monkeypatch.setenv("HOME", str(home))
    found = env.scan(home, home.parent)
    assert not [file for each in found.manifest.layers for file in each.files if file.path == "private.txt"]


def test_a_folder_that_somebody_put_on_the_search_path_goes_whole(env: Environment, tmp_path: Path) -> None:
    lib = write(tmp_path / "lib", {"a.py": "", "data.bin": ""})
    assert paths(env.scan(lib), "lib") == ["a.py", "data.bin"]


def test_a_folder_inside_another_tree_is_a_part_of_it(env: Environment, project: Path) -> None:
    write(project, {"src/mod.py": "", "build/lib/made.py": ""})
    found = scan_script(env, project / "app.py", None, project / "src", project / "build/lib")
    assert names(found) == ["proj", "lib"]  # what the rules leave out of the project is a tree by itself
    assert found.manifest.sys_path[:3] == ("roots/0-proj", "roots/0-proj/src", "roots/2-lib")


def test_an_archive_on_the_search_path_is_one_file(env: Environment, tmp_path: Path) -> None:
    write(tmp_path / "dist", {"app.pyz": "PK", "other.txt": ""})
    archive = tmp_path / "dist/app.pyz"
    found = env.scan(archive, entry=script_entry(str(archive)))
    assert paths(found, "app.pyz") == ["app.pyz"]
    assert found.relocate(str(archive)) == found.manifest.sys_path[0] == "roots/0-app.pyz/app.pyz"


def test_links_that_stay_inside_stay_links_and_others_become_what_they_lead_to(
    env: Environment, project: Path, tmp_path: Path
) -> None:
    write(tmp_path / "elsewhere", {"shared.txt": "shared", "folder/inner.txt": "inner"})
    (project / "inside").symlink_to("pkg")
    (project / "absolute").symlink_to(project / "pkg/data.csv")
    (project / "pkg/up").symlink_to("../app.py")
    (project / "shared").symlink_to(tmp_path / "elsewhere/shared.txt")
    (project / "folder").symlink_to(tmp_path / "elsewhere/folder")
    (project / "dangling").symlink_to("nothing")
    (project / "loop").symlink_to("loop")
    (project / "wide").symlink_to("/")
    (project / "above").symlink_to(tmp_path)
    found = scan_script(env, project / "app.py")
    files = {file.path: file for file in layer(found, "proj").files}
    assert {path: file.link for path, file in files.items() if file.link} == {
        "inside": "pkg",
        "absolute": "pkg/data.csv",
        "pkg/up": "../app.py",
    }
    assert files["shared"].sha256 == sha256("shared")
    assert files["folder/inner.txt"].sha256 == sha256("inner")
    assert not {"dangling", "loop"} & set(files)
    assert not [path for path in files if path.startswith(("wide", "above"))]


def test_what_is_no_file_stays(env: Environment, project: Path) -> None:
    os.mkfifo(project / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(project, os.O_RDONLY)  # a socket's path may have 107 characters only
        bound.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        assert not {"pipe", "socket"} & set(paths(scan_script(env, project / "app.py"), "proj"))


def test_executable_files_stay_executable(env: Environment, project: Path) -> None:
    (project / "tool.sh").write_text("#!/bin/sh\n")
    (project / "tool.sh").chmod(0o755)
    found = {file.path: file.executable for file in layer(scan_script(env, project / "app.py"), "proj").files}
    assert (found["tool.sh"], found["app.py"]) == (True, False)


def test_odd_names_are_scanned(env: Environment, project: Path) -> None:
    (project / "new\nline.txt").write_text("1")
    Path(os.fsdecode(os.fsencode(project) + b"/\xff.txt")).write_text("2")
    found = scan_script(env, project / "app.py")
    assert {"new\nline.txt", "\udcff.txt"} <= set(paths(found, "proj"))
    assert scan_script(env, project / "app.py").manifest == found.manifest


def test_an_unreadable_file_or_folder_is_an_error_that_names_it() -> None:
    with unprivileged() as folder:
        env = Environment(folder)
        project = write(folder / "proj", {"pyproject.toml": "", "app.py": "", "closed/x": "", "hidden": ""})
        (project / "hidden").chmod(0)
        with pytest.raises(ImageError, match=re.escape(f"{project}/hidden cannot be read") + r".*\.bigmachineignore"):
            scan_script(env, project / "app.py")
        (project / "hidden").chmod(0o600)
        (project / "closed").chmod(0)
        with pytest.raises(ImageError, match=re.escape(f"folder {project}/closed cannot be read")):
            scan_script(env, project / "app.py")
        (project / "closed").chmod(0o700)
        write(project, {".bigmachineignore": "hidden\n"})
        (project / "hidden").chmod(0)
        assert "hidden" not in paths(scan_script(env, project / "app.py"), "proj")


def test_a_file_that_goes_away_while_the_folder_is_scanned_is_not_in_it(
    env: Environment, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trees.Walk

    def walk_then_remove(*args: object) -> trees.Walk:
        found = real(*args)  # type: ignore[arg-type] # passed on as they came
        (project / "pkg/data.csv").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(trees, "Walk", walk_then_remove)
    assert "pkg/data.csv" not in paths(scan_script(env, project / "app.py"), "proj")


def test_a_file_that_goes_away_before_it_is_read_is_an_error_that_names_it(env: Environment, project: Path) -> None:
    found = scan_script(env, project / "app.py")
    tree = layer(found, "proj")
    (file,) = (file for file in tree.files if file.path == "pkg/data.csv")
    state = found.sources.state(tree.id, file.path)
    assert (state.size, found.sources.read(tree.id, file)) == (1, b"1")
    (project / "pkg/data.csv").write_text("2")
    with pytest.raises(ImageError, match=r"pkg/data.csv was changed since the scan: start again"):
        found.sources.read(tree.id, file)
    (project / "pkg/data.csv").unlink()
    with pytest.raises(ImageError, match=r"send: .*pkg/data.csv cannot be read any more"):
        found.sources.read(tree.id, file)


def test_one_edited_line_changes_one_file_of_the_image(env: Environment, project: Path) -> None:
    before = layer(scan_script(env, project / "app.py"), "proj")
    (project / "app.py").write_text("x = 1\n")
    after = layer(scan_script(env, project / "app.py"), "proj")
    assert set(after.files) - set(before.files) == {file for file in after.files if file.path == "app.py"}
    (project / "app.py").write_text("")
    assert layer(scan_script(env, project / "app.py"), "proj").id == before.id


def test_a_big_tree_is_told_of_with_its_biggest_folders(
    env: Environment, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(12):
        write(project, {f"data/part{number:02}/x": ""})
        os.truncate(project / f"data/part{number:02}/x", (number + 1) * 1_000_000)
    with caplog.at_level(logging.WARNING, "bigmachine.image"):
        scan_script(env, project / "app.py")
    assert not caplog.records
    os.truncate(project / "data/part11/x", 90_000_000)
    scan_script(env, project / "app.py")
    (record,) = caplog.records
    told = record.getMessage()
    assert str(project) in told
    assert ".bigmachineignore" in told
    listed = re.findall(r"(\S+) \((\d+\.\d) MB, (\d+) files\)", told)
    assert listed[0] == ("data/part11", "90.0", "1")
    assert [folder for folder, _, _ in listed] == [f"data/part{n:02}" for n in range(11, 1, -1)]


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({f"dir{n}/in/x": 20 + n for n in range(12)}, [f"dir{n}/in" for n in range(11, 1, -1)]),
        ({"a/deep/down/x": 150, "b/y": 1}, ["a/deep/down", "b"]),
        ({"a/x": 60, "a/in/x": 60}, ["a"]),  # what lies in it directly counts, too
        ({f"many/{n}/x": 1 for n in range(200)}, ["many"]),
        ({"x": 150}, []),
    ],
)
def test_the_biggest_folders_are_different_places(sizes: dict[str, int], told: list[str]) -> None:
    files = [File(path, "", size * 1_000_000) for path, size in sizes.items()]
    found = trees.biggest_folders(files)
    assert [folder for folder, _, _ in found] == told
    for folder, size, count in found:
        inside = [file for file in files if file.path.startswith(f"{folder}/")]
        assert (size, count) == (sum(file.size for file in inside), len(inside))


def test_many_files_are_told_of_too(
    env: Environment, project: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trees.BIG_FILES == 10_000
    monkeypatch.setattr(trees, "BIG_FILES", 100)  # so many are made faster
    write(project, {f"many/{number}": "" for number in range(100)})
    with caplog.at_level(logging.WARNING, "bigmachine.image"):
        scan_script(env, project / "app.py")
    assert "many (0.0 MB, 100 files)" in caplog.text


def test_our_own_package_is_in_every_image(env: Environment, project: Path) -> None:
    import bigmachine

    found = scan_script(env, project / "app.py")
    place = found.relocate(bigmachine.__file__)
    assert place is not None
    assert place.endswith("/bigmachine/__init__.py")
    assert place.removesuffix("/bigmachine/__init__.py") in found.manifest.sys_path
