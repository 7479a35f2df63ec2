from __future__ import annotations

import pytest

from bigmachine.errors import ImageError
from bigmachine.image.scan import record

SITE, PREFIX = "/env/lib/python3.11/site-packages", "/env"


def test_a_row_has_path_hash_and_size() -> None:
    text = 'a/b.py,sha256=uU0nuZNNPgilLlLX2n2r-sSE7-N6U4DukIj3rOLvzek,3\r\n"a/c,d.txt",,\r\na-1.dist-info/RECORD,,\r\n'
    hello = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
    assert list(record.rows(text, "a")) == [
        ("a/b.py", hello, 3),
        ("a/c,d.txt", "", -1),
        ("a-1.dist-info/RECORD", "", -1),
    ]


def test_another_algorithm_than_sha256_counts_as_none() -> None:
    assert next(record.rows("a.py,md5=1B2M2Y8AsgTpgAmY7PhCfg,0\n", "a")).sha256 == ""


def test_a_record_that_is_none_is_an_error_that_names_the_package() -> None:
    with pytest.raises(ImageError, match=r"installed distribution a-b.*install a-b again"):
        list(record.rows("a.py,sha256=x,three\n", "a-b"))


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("a/b.py", "site/a/b.py"),
        ("../../../bin/tool", "bin/tool"),
        ("../../../share/man/x.1", "data/share/man/x.1"),
        ("../../../etc/x.conf", "data/etc/x.conf"),
        ("a/../b.py", "site/b.py"),
        (f"{SITE}/c.py", "site/c.py"),
        ("../../../../../etc/passwd", None),
        ("/usr/bin/x", None),
    ],
)
def test_a_file_belongs_to_a_scheme_of_the_environment_or_to_nothing(path: str, where: str | None) -> None:
    assert record.scheme_path(path, SITE, PREFIX) == where


def test_what_an_installer_adds_is_no_part_of_a_layer() -> None:
    info, scripts = "a-1.dist-info", {"tool", "pip"}
    out = ["RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"]
    assert all(record.is_left_out(f"site/{info}/{name}", info, scripts) for name in out)
    assert all(record.is_left_out(f"bin/{name}", info, scripts) for name in ("tool", "tool.exe", "pip3.11", "pip3"))
    assert record.is_left_out("site/a/__pycache__/b.cpython-311.pyc", info, scripts)


def test_what_the_package_itself_brings_is_part_of_its_layer() -> None:
    info, scripts = "a-1.dist-info", {"tool"}
    kept = [f"site/{info}/METADATA", f"site/{info}/entry_points.txt", "site/a/RECORD", "bin/toolbox", "site/a/b.pyc"]
    assert not any(record.is_left_out(path, info, scripts) for path in kept)


def test_only_wheels_for_every_platform_are_pure() -> None:
    assert record.tag("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py2-none-any\nTag: py3-none-any\n").is_pure
    assert not record.tag("Root-Is-Purelib: true\nTag: py3-none-manylinux_2_28_x86_64\n").is_pure
    assert not record.tag("Root-Is-Purelib: false\nTag: cp311-cp311-linux_x86_64\n").is_pure
    assert not record.tag("").is_pure


def test_scripts_are_named_by_both_kinds_of_entry_points_with_their_case() -> None:
    text = "[console_scripts]\nTool = a.b:main [extra]\nx-y=a:b\n\n[gui_scripts]\nwin = a:c\n\n[other]\nz = a\n"
    assert record.script_names(text) == {"Tool", "x-y", "win"}
    assert record.script_names("no section\n") == frozenset()


@pytest.mark.parametrize(
    ("site", "prefix"),
    [
        ("/env/lib/python3.11/site-packages", "/env"),
        ("/home/me/.local/lib/python3.11/site-packages", "/home/me/.local"),
        ("/usr/lib/python3/dist-packages", "/usr"),
        ("/env/lib64/python3.13t/site-packages", "/env"),
        ("/app/vendored", "/app"),
    ],
)
def test_the_prefix_is_told_by_where_site_packages_is(site: str, prefix: str) -> None:
    assert record.prefix_of(site) == prefix


def test_names_are_compared_normalised() -> None:
    assert record.named("Foo_Bar.baz-1.2.dist-info") == ("foo-bar-baz", "1.2")
    assert record.named("six.egg-info") == ("six", "")
