"""Installed packages become layers: by their RECORDs where those hold, by what is there where they do not."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from bigmachine.errors import ImageError
from bigmachine.image.image import Image
from tests.cluster.image.installed import Environment, age, layer, names, paths, sha256, unprivileged, write


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def test_a_distribution_is_named_by_its_files_wherever_and_by_whatever_it_was_installed(tmp_path: Path) -> None:
    one, other = Environment(tmp_path / "a"), Environment(tmp_path / "b")
    points = "[console_scripts]\ntool = pkg:main\n"
    files = {"pkg/__init__.py": "x = 1\n", "pkg/data.txt": "data"}
    one.install("pkg", files | {"../../../bin/tool": "#!/a/python\n"}, entry_points=points)
    other.install("pkg", files | {"../../../bin/tool": "#!/b/other\n"}, entry_points=points)
    write(other.site / "pkg-1.0.dist-info", {"INSTALLER": "uv\n", "REQUESTED": "", "uv_cache.json": "{}"})
    write(other.site / "pkg/__pycache__", {"__init__.cpython-311.pyc": "code"})
    first, second = layer(one.scan(), "pkg"), layer(other.scan(), "pkg")
    assert first.id == second.id
    assert (first.kind, first.version, first.pure) == ("dist", "1.0", True)
    info = "site/pkg-1.0.dist-info"
    assert [file.path for file in first.files] == [
        f"{info}/METADATA",
        f"{info}/WHEEL",
        f"{info}/entry_points.txt",
        "site/pkg/__init__.py",
        "site/pkg/data.txt",
    ]
    assert "strays" not in names(other.scan())


def test_unchanged_files_are_not_read(env: Environment) -> None:
    env.install("pkg", {"pkg.py": "x = 1\n"})
    # A content that cannot be told from the recorded one but by reading it: if it is not read, the scan cannot know.
    written = env.site / "pkg.py"
    before = written.stat()
    written.write_text("x = 2\n")
    os.utime(written, ns=(before.st_atime_ns, before.st_mtime_ns))
    (file,) = (file for file in layer(env.scan(), "pkg").files if file.path == "site/pkg.py")
    assert file.sha256 == sha256("x = 1\n")


def test_what_a_sender_distrusts_is_read(env: Environment) -> None:
    env.install("pkg", {"pkg.py": "x = 1\n"})
    written = env.site / "pkg.py"
    before = written.stat()
    written.write_text("x = 2\n")
    os.utime(written, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = env.scan()
    (file,) = (file for file in layer(found, "pkg").files if file.path == "site/pkg.py")
    with pytest.raises(ImageError, match=r"pkg.py was changed since the scan"):
        found.sources.read(layer(found, "pkg").id, file)
    again = env.scan(distrusted=(str(written),))
    (file,) = (file for file in layer(again, "pkg").files if file.path == "site/pkg.py")
    assert again.sources.read(layer(again, "pkg").id, file) == b"x = 2\n"


@pytest.mark.parametrize("text", ["x = 2\n", "x = 1  # longer\n"])
def test_a_patched_file_is_what_it_is_now_and_the_layer_another(env: Environment, text: str) -> None:
    env.install("pkg", {"pkg.py": "x = 1\n", "other.py": ""})
    original = layer(env.scan(), "pkg").id
    (env.site / "pkg.py").write_text(text)
    patched = layer(env.scan(), "pkg")
    assert patched.id != original
    assert {file.path: file.sha256 for file in patched.files}["site/pkg.py"] == sha256(text)
    (env.site / "pkg.py").write_text("x = 1\n")
    assert layer(env.scan(), "pkg").id == original


def test_a_removed_file_is_not_in_the_layer(env: Environment) -> None:
    env.install("pkg", {"pkg.py": "x = 1\n", "other.py": ""})
    (env.site / "other.py").unlink()
    assert "site/other.py" not in paths(env.scan(), "pkg")


def test_a_path_that_two_distributions_claim_has_the_content_that_is_there(env: Environment) -> None:
    env.install("one", {"shared/__init__.py": "one"})
    env.install("two", {"shared/__init__.py": "two"})
    found = env.scan()
    digests = {
        file.sha256 for each in found.manifest.layers for file in each.files if file.path == "site/shared/__init__.py"
    }
    assert digests == {sha256("two")}


def test_a_file_without_a_recorded_hash_is_read(env: Environment) -> None:
    env.install("pkg", {"pkg.py": "x = 1\n"}, unlisted=("pkg.py",))
    assert sha256("x = 1\n") in {file.sha256 for file in layer(env.scan(), "pkg").files}


def test_strays_come_along_as_a_patch(env: Environment) -> None:
    env.install("pkg", {"pkg/__init__.py": ""})
    write(env.site, {"local_hack.py": "y = 1\n", "pkg/extra.json": "{}"})
    found = env.scan()
    assert layer(found, "strays").kind == "patch"
    assert paths(found, "strays") == ["site/local_hack.py", "site/pkg/extra.json"]


def test_a_namespace_package_is_joined_from_its_distributions(env: Environment) -> None:
    env.install("google-a", {"google/a/__init__.py": ""})
    env.install("google-b", {"google/b/__init__.py": ""})
    found = env.scan()
    assert "site/google/a/__init__.py" in paths(found, "google-a")
    assert "site/google/b/__init__.py" in paths(found, "google-b")
    assert found.relocate(str(env.site / "google")) == "lib/python3.11/site-packages/google"


def test_what_was_installed_without_a_record_is_a_layer_by_its_top_level_names(env: Environment) -> None:
    write(env.site, {"old/__init__.py": "", "old/data.bin": "1", "single.py": ""})
    write(env.site / "Old_Package-2.5.egg-info", {"PKG-INFO": "Name: Old_Package\n", "top_level.txt": "old\nsingle\n"})
    found = env.scan()
    assert layer(found, "old-package").version == "2.5"
    assert {"site/old/data.bin", "site/single.py", "site/Old_Package-2.5.egg-info/PKG-INFO"} <= set(
        paths(found, "old-package")
    )
    assert "strays" not in names(found)


def test_files_of_the_prefix_keep_their_place_and_those_outside_of_it_stay(env: Environment) -> None:
    (env.root / "outside.txt").write_text("not ours")
    env.install(
        "pkg",
        {
            "pkg.py": "",
            "../../../share/pkg/data.txt": "data",
            "../../../bin/binary": "\x7fELF",
            "../../../../outside.txt": "not ours",
        },
    )
    found = env.scan()
    assert {"data/share/pkg/data.txt", "bin/binary"} <= set(paths(found, "pkg"))
    assert not [path for path in paths(found, "pkg") if "outside" in path]
    assert found.relocate(str(env.root / "env/share/pkg/data.txt")) == "share/pkg/data.txt"
    assert found.relocate(str(env.root / "env/bin/binary")) == "bin/binary"
    assert found.relocate(str(env.root / "outside.txt")) is None


def test_an_earlier_site_directory_hides_what_is_in_a_later_one(env: Environment) -> None:
    later = env.root / "usr/lib/python3/dist-packages"
    env.install("pkg", {"pkg/__init__.py": "new"}, version="2.0")
    env.install("pkg", {"pkg/__init__.py": "old", "pkg/gone.py": ""}, version="1.0", site=later)
    env.install("more", {"more.py": ""}, site=later)
    write(later, {"pkg/stray.py": ""})
    found = env.scan(env.site, later)
    assert layer(found, "pkg").version == "2.0"
    assert "more" in names(found)
    everything = [file.path for each in found.manifest.layers for file in each.files]
    assert "site/pkg/gone.py" not in everything
    assert "site/pkg/stray.py" not in everything
    assert [each for each in found.manifest.sys_path if each == "site"] == ["site"]


def test_a_directory_that_is_on_the_path_by_two_names_is_scanned_once(env: Environment) -> None:
    env.install("pkg", {"pkg.py": ""})
    (env.root / "env/lib64").symlink_to("lib")
    other = env.root / "env/lib64/python3.11/site-packages"
    found = env.scan(env.site, other)
    assert names(found) == ["pkg"]
    assert found.manifest.sys_path.count("site") == 1
    assert found.relocate(str(other)) == found.relocate(str(env.site)) == "lib/python3.11/site-packages"
    assert found.relocate(str(other / "pkg.py")) == "lib/python3.11/site-packages/pkg.py"


def test_the_standard_library_is_the_interpreters(env: Environment) -> None:
    env.install("pkg", {"pkg.py": ""})
    standard = [Path(each) for each in sys.path if each and "site-packages" not in each and "python3" in each]
    assert standard
    found = env.scan(*standard, env.site)
    assert found.relocate(os.__file__) is None
    assert "pkg" in names(found)


def test_named_distributions_can_be_left_here(env: Environment) -> None:
    env.install("pkg", {"pkg.py": ""})
    env.install("Huge.Thing", {"huge.py": ""})
    found = env.scan(image=Image(without=["huge_thing"]))
    assert "pkg" in names(found)
    assert "site/huge.py" not in [file.path for each in found.manifest.layers for file in each.files]


def test_a_name_to_leave_here_that_nothing_has_is_told_of_with_those_that_are_near(
    env: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    env.install("Huge.Thing", {"huge.py": ""})
    with caplog.at_level("WARNING", "bigmachine.image"):
        env.scan(image=Image(without=["huge_thing"]))
        assert not caplog.records
        env.scan(image=Image(without=["huge-thin", "zzzzzzz"]))
    near, far = (record.getMessage() for record in caplog.records)
    assert near.startswith("Image(without=['huge-thin']) leaves nothing out, since no such package is installed")
    assert near.endswith("; there is huge-thing")
    assert far.startswith("Image(without=['zzzzzzz']) leaves nothing out")


def test_a_library_that_looks_for_another_distributions_makes_its_layer_escape(env: Environment) -> None:
    import shutil
    import subprocess

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = env.root / "x.c"
    source.write_text("int x;")
    built = {}
    for name, rpath in {"beside": "$ORIGIN/../beside.libs", "across": "$ORIGIN/../../nvidia/lib"}.items():
        env.install(name, {f"{name}/sub/__init__.py": "", f"{name}/x.libs/y": "", f"{name}.libs/z": ""})
        target = env.site / name / "x.so"
        subprocess.run([compiler, "-shared", "-o", target, source, f"-Wl,-rpath,{rpath}"], check=True, timeout=60)
        record = env.site / f"{name}-1.0.dist-info/RECORD"
        record.write_text(record.read_text() + f"{name}/x.so,,\n")
        built[name] = layer(env.scan(), name).escapes
    assert built == {"beside": False, "across": True}


def test_an_unreadable_stray_is_an_error_that_names_it() -> None:
    with unprivileged() as folder:
        env = Environment(folder)
        write(env.site, {"secret.py": ""})
        (env.site / "secret.py").chmod(0)
        with pytest.raises(ImageError, match=re.escape(f"{env.site}/secret.py cannot be read")):
            env.scan()


def test_a_broken_record_is_an_error_that_names_the_package(env: Environment) -> None:
    info = env.install("pkg", {"pkg.py": ""})
    (info / "RECORD").write_text("pkg.py,sha256=abc,many\n")
    with pytest.raises(ImageError, match=r"RECORD of the installed distribution pkg .*install pkg again"):
        env.scan()


def test_odd_names_are_scanned(env: Environment) -> None:
    env.install("pkg", {"pkg/new\nline.txt": "1"}, unlisted=("pkg/new\nline.txt",))
    odd = os.fsencode(env.site / "pkg") + b"/\xff.txt"
    Path(os.fsdecode(odd)).write_text("2")
    found = env.scan()
    assert "site/pkg/\udcff.txt" in paths(found, "strays")
    assert "site/pkg/new\nline.txt" in [file.path for each in found.manifest.layers for file in each.files]
    assert found.manifest.digest == env.scan().manifest.digest


def test_a_second_scan_of_an_unchanged_environment_opens_no_file_of_it(env: Environment) -> None:
    env.install("pkg", {"pkg/__init__.py": "", "pkg/a.py": "1"}, unlisted=("pkg/a.py",))
    write(env.site, {"stray.py": ""})
    age(env.site)
    time.sleep(1.1)  # states younger than a second are not relied on
    first = env.scan()
    # Read once more from what is remembered: a changed inode would show, hence only the time of access could tell.
    opened: list[str] = []
    hook_is_on = [True]

    def hook(event: str, args: tuple[object, ...]) -> None:
        if hook_is_on[0] and event == "open":
            opened.append(str(args[0]))

    sys.addaudithook(hook)
    second = env.scan()
    hook_is_on[0] = False
    assert second.manifest == first.manifest
    files = [path for path in opened if path.startswith(str(env.site)) and not os.path.isdir(path)]
    # The metadata says whether a package is editable, each time anew.
    assert {os.path.basename(path) for path in files} <= {"direct_url.json"}


def test_libraries_and_data_of_conda_packages_keep_their_places_in_the_prefix(env: Environment) -> None:
    prefix = env.root / "env"
    env.install("pkg", {"pkg.py": ""})
    files = {
        "lib/libx.so.1": "library",
        "share/x/data": "data",
        "lib/python3.11/site-packages/pkg.py": "",
        "bin/x": "",
        "include/x.h": "",
        "lib/prefixed.conf": f"at {prefix}",
    }
    write(prefix, files)
    (prefix / "lib/libx.so").symlink_to("libx.so.1")
    described = [
        {"_path": "lib/libx.so.1", "sha256": sha256("library"), "size_in_bytes": 7},
        {"_path": "lib/prefixed.conf", "sha256": "0" * 64, "sha256_in_prefix": "1" * 64, "size_in_bytes": 1},
    ]
    about = {"name": "x", "version": "1.2", "files": [*files, "lib/libx.so"], "paths_data": {"paths": described}}
    write(prefix / "conda-meta", {"x-1.2-0.json": json.dumps(about), "history": ""})
    found = env.scan()
    conda = layer(found, "conda:x")
    assert {file.path: file.link or file.sha256 for file in conda.files} == {
        "data/lib/libx.so": "libx.so.1",
        "data/lib/libx.so.1": sha256("library"),
        "data/lib/prefixed.conf": sha256(f"at {prefix}"),
        "data/share/x/data": sha256("data"),
    }
    assert conda.escapes
    assert found.relocate(str(prefix / "lib/libx.so.1")) == "lib/libx.so.1"
