"""Editable installs and `.pth` files: the source goes along, and the search path says where it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from bigmachine.errors import ImageError
from bigmachine.image.image import Image
from bigmachine.image.scan.scanned import Scan
from tests.cluster.image.installed import Environment, names, paths, write


@pytest.fixture
def env(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def assemble(found: Scan, root: Path) -> Path:
    """Put the image together in the plainest way: copies, and one `.pth` file."""
    for each in found.manifest.layers:
        for file in each.files:
            place = root / found.place_of(each, file)
            place.parent.mkdir(parents=True, exist_ok=True)
            if file.link:
                place.symlink_to(file.link)
            elif not place.exists():
                shutil.copyfile(found.sources.path(each.id, file.path), place)
    lines = [line.replace("{root}", str(root)) for line in found.manifest.pth]
    (root / found.site / "bigmachine.pth").write_text("\n".join(lines) + "\n")
    return root / found.site


def run_in(site: Path, code: str) -> str:
    """Run code in an interpreter that has nothing but the standard library and this site-packages."""
    line = f"import site, sys; site.addsitedir({str(site)!r}); {code}"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", line], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def given_pth(found: Scan) -> list[str]:
    """Return the lines without that for our own package, which is not installed in these environments."""
    return [line for line in found.manifest.pth if not line.endswith("-bigmachine")]


WHERE = "import proj, importlib.metadata as m; print(proj.__file__, m.version('proj'))"


def test_an_editable_install_by_a_path_has_its_source_and_its_metadata(env: Environment, tmp_path: Path) -> None:
    source = write(tmp_path / "work/src", {"proj/__init__.py": "", "proj/data.txt": "1"})
    env.install("proj", {"_editable_impl_proj.pth": f"{source}\n"}, editable=tmp_path / "work")
    found = env.scan(env.site, source)
    assert all(path.startswith("site/proj-1.0.dist-info/") for path in paths(found, "proj"))
    mount = found.relocate(str(source))
    assert f"{{root}}/{mount}" in found.manifest.pth
    assert mount in found.manifest.sys_path
    site = assemble(found, tmp_path / "image")
    source.rename(tmp_path / "work/gone")
    assert run_in(site, WHERE) == f"{tmp_path}/image/{mount}/proj/__init__.py 1.0"


def test_an_editable_install_by_setuptools_finder_has_its_source(env: Environment, tmp_path: Path) -> None:
    root = write(tmp_path / "work", {"proj/__init__.py": "", "mod.py": "", "ns/part/__init__.py": "", "setup.py": ""})
    mapping = {"proj": f"{root}/proj", "mod": f"{root}/mod", "ns.part": f"{root}/ns/part"}
    finder = f"MAPPING: dict[str, str] = {mapping!r}\nNAMESPACES = {{}}\ndef install():\n    pass\n"
    env.install(
        "proj",
        {
            "__editable__.proj-1.0.pth": "import __editable___proj_1_0_finder; __editable___proj_1_0_finder.install()",
            "__editable___proj_1_0_finder.py": finder,
        },
        editable=root,
    )
    found = env.scan()
    assert not [path for path in paths(found, "proj") if "__editable__" in path]
    site = assemble(found, tmp_path / "image")
    root.rename(tmp_path / "gone")
    assert run_in(site, f"import mod, ns.part; {WHERE}").startswith(f"{tmp_path}/image/roots/")


def test_a_package_whose_folder_has_another_name_has_its_own_in_the_image(env: Environment, tmp_path: Path) -> None:
    root = write(tmp_path / "work", {"lib/__init__.py": "", "lib/sub/__init__.py": ""})
    finder = f"MAPPING = {{'proj': '{root}/lib'}}\n"
    env.install(
        "proj",
        {"__editable__.proj.pth": "import __editable___proj_finder", "__editable___proj_finder.py": finder},
        editable=root,
    )
    found = env.scan()
    site = assemble(found, tmp_path / "image")
    assert run_in(site, f"import proj.sub; {WHERE}").startswith(f"{tmp_path}/image/roots/")
    assert str(found.relocate(f"{root}/lib/sub/__init__.py")).endswith("/proj/sub/__init__.py")


def test_an_editable_install_by_the_editables_library_has_its_source(env: Environment, tmp_path: Path) -> None:
    root = write(tmp_path / "work", {"proj/__init__.py": ""})
    finder = (
        f"from editables.redirector import RedirectingFinder as F\nF.map_module('proj', '{root}/proj/__init__.py')\n"
    )
    env.install("proj", {"_proj.pth": "import _editable_impl_proj", "_editable_impl_proj.py": finder}, editable=root)
    site = assemble(env.scan(), tmp_path / "image")
    assert run_in(site, WHERE).startswith(f"{tmp_path}/image/roots/")


@pytest.mark.parametrize(
    ("file", "text", "backend"),
    [
        ("_proj_editable_loader.py", "class MesonpyMetaFinder: ...\n", "meson-python"),
        ("_proj_editable.py", "class ScikitBuildRedirectingFinder: ...\n", "scikit-build-core"),
    ],
)
def test_a_package_that_is_rebuilt_on_import_is_refused_with_the_remedy(
    env: Environment, tmp_path: Path, file: str, text: str, backend: str
) -> None:
    env.install("proj", {"proj-editable.pth": f"import {file[:-3]}", file: text}, editable=tmp_path / "work")
    with pytest.raises(ImageError, match=rf"proj is installed editable by {backend}.*pip install {tmp_path}/work"):
        env.scan()
    assert "proj" not in names(env.scan(image=Image(without=["proj"])))


def test_pth_lines_that_mean_the_same_anywhere_stay_in_their_layers(env: Environment) -> None:
    env.install("hook", {"hook.pth": "import hook\n", "hook.py": ""})
    env.install("winlike", {"winlike.pth": "winlib\n", "winlib/w.py": ""})
    found = env.scan(env.site, env.site / "winlib")
    assert "site/hook.pth" in paths(found, "hook")
    assert "site/winlike.pth" in paths(found, "winlike")
    assert not given_pth(found)
    assert "site/winlib" in found.manifest.sys_path


def test_pth_lines_of_other_places_are_rewritten_and_imports_of_what_stays_are_dropped(
    env: Environment, tmp_path: Path
) -> None:
    lib = write(tmp_path / "lib", {"helper.py": ""})
    write(env.site, {"local.pth": f"# mine\n{lib}\n/does/not/exist\nimport helper\nimport nowhere_to_be_found\n"})
    found = env.scan(env.site, lib)
    mount = found.relocate(str(lib))
    assert given_pth(found) == [f"{{root}}/{mount}", "import helper"]
    assert not [file for each in found.manifest.layers for file in each.files if file.path == "site/local.pth"]


def test_a_real_editable_install_works_from_its_image(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="70.1")
    env = Environment(tmp_path)
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    project = write(
        tmp_path / "work",
        {
            "setup.cfg": "[metadata]\nname = proj\nversion = 3.2\n[options]\npackages = proj\n"
            "[options.entry_points]\nconsole_scripts =\n    tool = proj:main\n",
            "setup.py": "from setuptools import setup\nsetup()\n",
            "proj/__init__.py": "def main(): ...\n",
        },
    )
    site = next((tmp_path / "env/lib").glob("python*/site-packages"))
    build = (
        "import sys, zipfile; from setuptools import build_meta;"
        "out, site = sys.argv[1:];"  # the build changes them
        "zipfile.ZipFile(out + '/' + build_meta.build_editable(out)).extractall(site)"
    )
    out = tmp_path / "out"
    out.mkdir()
    # What an installer does with an editable wheel: unpack it, and note where it came from.
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build, out, site],
        cwd=project,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (info,) = site.glob("proj-*.dist-info")
    (info / "direct_url.json").write_text(f'{{"dir_info": {{"editable": true}}, "url": "{project.as_uri()}"}}')
    added = subprocess.run(
        [tmp_path / "env/bin/python", "-c", "import sys; print(*sys.path[1:], sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    found = env.scan(*map(Path, added))
    image = assemble(found, tmp_path / "image")
    shutil.move(project, tmp_path / "gone")
    told = run_in(image, f"{WHERE}; print([e.value for e in m.entry_points(name='tool')])")
    assert told.startswith(f"{tmp_path}/image/roots/")
    assert told.endswith("3.2\n['proj:main']")
