"""What is put together on a host is a real virtual environment, in which the program finds what it has at home."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bigmachine.errors import ImageError
from bigmachine.image.plan import encode_head
from bigmachine.image.store.collect import remove
from tests.cluster.image import sent
from tests.cluster.image.installed import Environment, write

MINOR = f"python{sys.version_info.major}.{sys.version_info.minor}"
POINTS = "[console_scripts]\ntool = plain.cli:main\n\n[plain.plugins]\none = plain.cli:main\n"
SPAWN = """
import multiprocessing, plain

def work(number):
    import os
    return number * plain.FACTOR, os.path.realpath(plain.__file__)

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(work, [14])[0])
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An image of a few packages and a project, on a host."""
    root = tmp_path_factory.mktemp("assembled")
    env = Environment(root)
    env.install(
        "plain",
        {
            "plain/__init__.py": "FACTOR = 3\n\n\ndef answer():\n    return 42\n",
            "plain/cli.py": "import sys\n\n\ndef main():\n    print('tool', sys.prefix, *sys.argv[1:])\n",
            "plain/data/words.txt": "hello",
            "../../../share/plain/manual.txt": "read me",
        },
        entry_points=POINTS,
    )
    env.install("space-one", {"space/one.py": "x = 1\n"})
    env.install("space-two", {"space/two.py": "x = 2\n"})
    env.install("hooked", {"hooked.py": "ran = []\n", "hooked.pth": "import hooked; hooked.ran.append(1)\n"})
    project = write(
        root / "project",
        {
            "pyproject.toml": "",
            "src/mine/__init__.py": "x = 5\n",
            "src/mine/notes.txt": "noted",
            "src/space/three.py": "x = 3\n",
            "main.py": SPAWN,
        },
    )
    env.install("mine", {"mine.pth": f"{project}/src\n"}, editable=project)
    sent.copy_distribution("numpy", env.site)
    found = env.scan(env.site, project, project / "src")
    with sent.store(root / "host") as host:
        built = sent.send(found, host, root / "packs")
        shutil.rmtree(project)  # whatever the image still found there would be missing on another host
        shutil.rmtree(env.site)
        yield Path(built.root)


def test_it_is_a_virtual_environment_of_the_interpreter(image: Path) -> None:
    told = json.loads(
        sent.run(str(image), "python", "-c", "import sys, json; print(json.dumps([sys.prefix, sys.base_prefix]))")
    )
    assert told == [str(image), sys.base_prefix]


def test_compiled_extensions_compute(image: Path) -> None:
    code = "import numpy as np; print(int((np.arange(10) @ np.arange(10)) + np.linalg.det(np.eye(3))), np.__file__)"
    value, place = sent.run(str(image), "python", "-c", code).split()
    assert value == "286"
    assert place.startswith(f"{image}/lib/{MINOR}/site-packages/numpy/")


def test_data_files_are_found_beside_their_modules(image: Path) -> None:
    code = "import importlib.resources as r; print((r.files('plain') / 'data/words.txt').read_text())"
    assert sent.run(str(image), "python", "-c", code) == "hello"
    assert (image / "share/plain/manual.txt").read_text() == "read me"


def test_versions_and_entry_points_are_known(image: Path) -> None:
    code = """
from importlib import metadata
(point,) = metadata.entry_points(group="plain.plugins")
print(metadata.version("plain"), metadata.version("mine"), point.name, point.load().__module__)
"""
    assert sent.run(str(image), "python", "-c", code) == "1.0 1.0 one plain.cli"


def test_an_editable_project_and_its_part_of_a_namespace_are_found_in_the_image(image: Path) -> None:
    code = """
import mine, space.one, space.two, space.three, importlib.resources as r
print(mine.x, space.one.x + space.two.x + space.three.x, (r.files("mine") / "notes.txt").read_text(), mine.__file__)
"""
    *values, place = sent.run(str(image), "python", "-c", code).split()
    assert values == ["5", "6", "noted"]
    assert place.startswith(f"{image}/roots/")


def test_lines_of_pth_files_are_run_as_in_any_virtual_environment(image: Path, tmp_path: Path) -> None:
    """Some versions of Python run them twice in one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=60)
    for file in image.glob("lib/*/site-packages/hooked.*"):
        shutil.copy(file, tmp_path / f"venv/lib/{MINOR}/site-packages")
    code = "import hooked; print(hooked.ran)"
    there = sent.run(str(image), "python", "-c", code)
    assert there == sent.run(str(tmp_path / "venv"), "python", "-c", code)
    assert there != "[]"


def test_files_of_distributions_are_known_with_their_hashes(image: Path) -> None:
    code = """
import base64, hashlib
from importlib import metadata
for name in ("plain", "mine", "numpy"):
    for file in metadata.files(name):
        if file.hash is not None:
            content = file.locate().read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (file.size, file.hash.value) == (len(content), digest), file
print(*sorted(str(file) for file in metadata.files("plain")), metadata.distribution("plain").read_text("INSTALLER"))
"""
    info = "plain-1.0.dist-info"
    assert sent.run(str(image), "python", "-c", code).split() == [
        "../../../share/plain/manual.txt",
        *(f"{info}/{name}" for name in ("INSTALLER", "METADATA", "RECORD", "WHEEL", "entry_points.txt")),
        *(f"plain/{name}" for name in ("__init__.py", "cli.py", "data/words.txt")),
        "bigmachine",
    ]


def test_a_machine_that_scans_its_environment_finds_the_same_layers(tmp_path: Path) -> None:
    env = Environment(tmp_path)
    env.install("plain", {"plain/cli.py": "def main(): ...\n", "single.py": "x = 1\n"}, entry_points=POINTS)
    env.install("space-one", {"space/one.py": "x = 1\n"})
    env.install("space-two", {"space/two.py": "x = 2\n"})
    found = env.scan()
    with sent.store(tmp_path / "host") as host:
        built = sent.send(found, host, tmp_path / "packs")
        there = env.scan(Path(built.root, f"lib/{MINOR}/site-packages"))
    assert {each.name: each.id for each in there.manifest.layers} == {
        each.name: each.id for each in found.manifest.layers
    }


@pytest.mark.parametrize(
    "first_lines",
    [
        "#!/home/driver/venv/bin/python3.11 -s\n",
        "#!/bin/sh\n'''exec' \"/home/my driver/venv/bin/python\" -s \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_scripts_of_another_environments_python_run_in_the_image(tmp_path: Path, first_lines: str) -> None:
    env = Environment(tmp_path)
    script = f"{first_lines}import sys\nprint(sys.prefix, sys.flags.no_user_site, *sys.argv[1:])\n"
    files = {"../../../bin/legacy": script, "../../../bin/shell": "#!/bin/sh\necho $0\n", "x/__init__.py": ""}
    for name in ("legacy", "shell"):
        path = tmp_path / "env/bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
    env.install("legacy", files)
    with sent.store(tmp_path / "host") as host:
        root = sent.send(env.scan(), host, tmp_path / "packs").root
        assert sent.run(root, "legacy", "a b") == f"{root} 1 a b"
        assert sent.run(root, "shell") == f"{root}/bin/shell"


def test_console_scripts_run_in_the_image(image: Path) -> None:
    assert sent.run(str(image), "tool", "a", "b") == f"tool {image} a b"


def test_children_by_sys_executable_are_in_the_image(image: Path) -> None:
    code = """
import subprocess, sys
child = [sys.executable, "-c", "import plain, sys; print(plain.answer(), sys.prefix)"]
print(subprocess.check_output(child, text=True))
"""
    assert sent.run(str(image), "python", "-c", code) == f"42 {image}"


def test_processes_that_multiprocessing_spawns_are_in_the_image(image: Path) -> None:
    (program,) = image.glob("roots/*/main.py")
    printed = sent.run(str(image), "python", str(program))
    assert printed.startswith("(42, ")
    assert "/host/v1/" in printed


def test_sources_can_be_shown(image: Path) -> None:
    code = "import inspect, plain; print(inspect.getsource(plain.answer))"
    assert sent.run(str(image), "python", "-c", code) == "def answer():\n    return 42"


def test_nothing_is_writable_but_byte_code(image: Path) -> None:
    site = image / f"lib/{MINOR}/site-packages"
    for path in [site, image / "bin", *image.glob("roots/*"), *image.glob("roots/*/src/mine/__init__.py")]:
        assert path.stat().st_mode & 0o222 == 0, path
    sent.run(str(image), "python", "-c", "import numpy, mine")
    assert list(site.glob("numpy/__pycache__/*.pyc"))
    assert list(image.glob("roots/*/src/mine/__pycache__/*.pyc"))


#: What an ordinary user's program may not do in its image; it prints what it could.
VANDAL = """
import glob, os, sys
os.setgroups([])
os.setgid(12345)
os.setuid(12345)
import plain, hooked
could = []
names = ("pyvenv.cfg", "bin/tool", "roots/*/src/mine/__init__.py")
own = [path for name in names for path in glob.glob(f"{sys.prefix}/{name}")]
assert len(own) == 3, own
for path in (plain.__file__, hooked.__file__, *own):
    for step in (lambda: open(path, "a"), lambda: os.unlink(path), lambda: open(path + ".new", "w")):
        try:
            step()
            could.append(path)
        except PermissionError:
            pass
print("could:", could)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a store to an ordinary user")
def test_a_program_of_an_ordinary_user_cannot_change_its_image(image: Path) -> None:
    """It is that user's own: what holds the program back is that files and folders are closed."""
    with tempfile.TemporaryDirectory(prefix="bigmachine-test-") as folder:
        os.chmod(folder, 0o755)
        root = image.parents[1]
        store = Path(folder, "v1")
        shutil.copytree(root, store, symlinks=True)
        for path in [store, *store.rglob("*")]:
            os.chown(path, 12345, 12345, follow_symlinks=False)
        copied = store / image.relative_to(root)
        for link in [*copied.glob(f"lib/{MINOR}/site-packages/*"), *copied.glob("roots/*")]:
            if link.is_symlink():
                target = store / link.readlink().relative_to(root)
                link.unlink()
                link.symlink_to(target)
        try:
            assert sent.run(str(copied), "python", "-c", VANDAL) == "could: []"
        finally:
            remove(store)


def test_byte_code_of_modules_in_no_folder_can_be_kept(tmp_path: Path) -> None:
    """They are as slow to compile as others, at each start; and site-packages is closed."""
    env = Environment(tmp_path)
    env.install("single", {"single.py": "x = 1\n"})
    with sent.store(tmp_path / "host") as host:
        built = sent.send(env.scan(), host, tmp_path / "packs")
    site = Path(built.root, f"lib/{MINOR}/site-packages")
    assert stat.S_IMODE(site.stat().st_mode) == 0o555
    assert stat.S_IMODE((site / "__pycache__").stat().st_mode) == 0o755
    code = "import single; print(single.__spec__.cached)"
    assert sent.run(built.root, "python", "-c", code).startswith(f"{site}/__pycache__/single.")


def test_two_interpreters_have_an_image_each(tmp_path: Path) -> None:
    env = Environment(tmp_path)
    env.install("pkg", {"pkg/__init__.py": "x = 1\n"})
    other = tmp_path / "other/bin/python"
    other.parent.mkdir(parents=True)
    shutil.copy(os.path.realpath(sys.executable), other)
    found = env.scan()
    head = encode_head(found.manifest)
    with sent.store(tmp_path / "host") as host:
        one = sent.send(found, host, tmp_path / "packs").root
        lacking = host.offer(head, str(other))
        assert (lacking.is_built, lacking.layers) == (False, ())
        two = host.receive(head, str(other), iter([])).root
    assert one != two
    for root, python in ((one, sys.executable), (two, other)):
        assert Path(root, "bin/python").readlink() == Path(os.path.realpath(python))
        assert Path(root, f"lib/{MINOR}/site-packages/pkg/__init__.py").read_text() == "x = 1\n"


@pytest.mark.parametrize(("first", "second"), [("thing", "thing/inside"), ("thing/inside", "thing")])
def test_a_file_where_another_package_has_a_folder_is_named(tmp_path: Path, first: str, second: str) -> None:
    env = Environment(tmp_path)
    env.install("one", {f"../../../share/{first}": "x"})
    other = tmp_path / "other/lib/python3.11/site-packages"
    env.install("two", {f"../../../share/{second}": "x"}, site=other)
    with sent.store(tmp_path / "host") as host:
        text = f"assemble: share/{second} of two is a file where another package has a folder, or the reverse"
        with pytest.raises(ImageError, match=text):
            sent.send(env.scan(env.site, other), host, tmp_path / "packs")
        assert not [path for path in (host.root / "images").iterdir() if path.is_dir()]


def test_scripts_run_in_a_directory_whose_path_no_shebang_can_hold(tmp_path: Path) -> None:
    env = Environment(tmp_path)
    env.install(
        "plain", {"plain/__init__.py": "", "plain/cli.py": "def main():\n    print('ran')\n"}, entry_points=POINTS
    )
    with sent.store(tmp_path / ("long " * 30)) as host:
        built = sent.send(env.scan(), host, tmp_path / "packs")
        assert len(built.root) > 150
        assert sent.run(built.root, "tool") == "ran"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, to make libraries")
def test_libraries_find_those_of_other_packages_by_paths_relative_to_themselves(tmp_path: Path) -> None:
    one, two = tmp_path / "one/base/lib", tmp_path / "two/above"
    one.mkdir(parents=True)
    two.mkdir(parents=True)
    sources = write(tmp_path / "c", {"base.c": "int base(void) { return 40; }\n"})
    write(sources, {"above.c": "int base(void);\nint above(void) { return base() + 2; }\n"})
    (two / "__init__.py").write_text(
        "import ctypes, os\nlib = ctypes.CDLL(os.path.dirname(__file__) + '/libabove.so')\n"
    )
    gcc = ["gcc", "-shared", "-fPIC"]
    subprocess.run([*gcc, "-o", one / "libbase.so", sources / "base.c"], check=True, timeout=60)
    rpath = "-Wl,-rpath,$ORIGIN/../base/lib"
    link = ["-o", str(two / "libabove.so"), str(sources / "above.c"), f"-L{one}", "-lbase", rpath]
    subprocess.run([*gcc, *link], check=True, timeout=60)
    env = Environment(tmp_path)
    sent.install_folder(env.site, "base", tmp_path / "one")
    sent.install_folder(env.site, "above", tmp_path / "two")
    with sent.store(tmp_path / "host") as host:
        built = sent.send(env.scan(), host, tmp_path / "packs")
        for folder in ("one", "two"):
            shutil.rmtree(tmp_path / folder)
        shutil.rmtree(env.site)
        assert sent.run(built.root, "python", "-c", "import above; print(above.lib.above())") == "42"
        code = "from importlib import metadata; print(*metadata.files('above'))"
        assert "above-1.0.dist-info/RECORD" in sent.run(built.root, "python", "-c", code).split()


def test_the_first_layer_that_has_a_path_wins(tmp_path: Path) -> None:
    env = Environment(tmp_path)
    env.install("pkg", {"pkg/__init__.py": "x = 1\n"})
    edited = env.site / "pkg/__init__.py"
    edited.write_text("x = 222\n")
    os.utime(edited)
    with sent.store(tmp_path / "host") as host:
        built = sent.send(env.scan(), host, tmp_path / "packs")
        assert sent.run(built.root, "python", "-c", "import pkg; print(pkg.x)") == "222"


def test_a_new_image_has_the_byte_code_that_older_ones_made(tmp_path: Path) -> None:
    """Hard-linked layers keep it with the image, trees with the layer; an edit must not make all of it be compiled."""
    env = Environment(tmp_path)
    env.install("one", {"space/__init__.py": "", "space/one.py": "x = 1\n"})
    env.install("two", {"space/two.py": "x = 2\n"})
    project = write(tmp_path / "project", {"pyproject.toml": "", "app.py": "x = 1\n", "kept/same.py": "y = 1\n"})
    with sent.store(tmp_path / "host") as host:
        built = sent.send(env.scan(env.site, project), host, tmp_path / "packs")
        (mount,) = Path(built.root).glob("roots/*-project")
        code = f"import sys; sys.path.insert(0, '{mount}'); import space.one, space.two, app, kept.same"
        sent.run(built.root, "python", "-c", code)
        (project / "app.py").write_text("x = 2222\n")
        again = sent.send(env.scan(env.site, project), host, tmp_path / "packs")
    assert again.root != built.root
    code = "import space.one; print(space.one.__spec__.cached)"
    cached = Path(sent.run(again.root, "python", "-B", "-c", code))
    assert cached.is_file()
    assert cached.is_relative_to(again.root)
    assert list(Path(again.root).glob("roots/*/kept/__pycache__/same.*.pyc"))
    assert not list(Path(again.root).glob("roots/*/__pycache__/app.*.pyc"))


def test_a_tree_is_linked_as_it_is_in_the_store(tmp_path: Path) -> None:
    """An image of a large project is put together in no time, and its trees are closed all the same."""
    env = Environment(tmp_path)
    project = write(tmp_path / "project", {"pyproject.toml": "", "app.py": "", "part/inner.py": "print('runs')\n"})
    with sent.store(tmp_path / "host") as host:
        found = env.scan(project)
        built = sent.send(found, host, tmp_path / "packs")
        (layer,) = (each for each in found.manifest.layers if each.name == "project")
        assert (built.root / Path(layer.mount)).readlink() == host.root / "layers" / layer.id
        (project / "part/inner.py").unlink()
        code = f"import sys; sys.path.insert(0, '{built.root}/{layer.mount}'); import part.inner"
        assert sent.run(built.root, "python", "-c", code) == "runs"


def test_a_tree_inside_of_another_is_refused(tmp_path: Path) -> None:
    """It would be made in a layer that others have, too."""
    env = Environment(tmp_path)
    one, two = (write(tmp_path / name, {"pyproject.toml": "", f"{name}.py": f"# {name}\n"}) for name in ("one", "two"))
    with sent.store(tmp_path / "host") as host:
        found = env.scan(one, two)
        outer, inner = (each for each in found.manifest.layers if each.name in ("one", "two"))
        layers = (outer, replace(inner, mount=f"{outer.mount}/inner"))
        found.manifest = replace(found.manifest, layers=layers)
        with pytest.raises(ImageError, match=f"the tree {outer.mount}/inner would have to lie inside of {outer.mount}"):
            sent.send(found, host, tmp_path / "packs")
        assert [path.name for path in (host.root / "layers" / outer.id).glob("*.py")] == ["one.py"]
