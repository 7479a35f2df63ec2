"""What is written beside a layer's files is what an installer would have written."""

from __future__ import annotations

import hashlib

from bigmachine.image.manifest import File, Kind, Layer
from bigmachine.image.scan.record import rows
from bigmachine.image.store.recorded import names, written


def file(path: str, content: bytes = b"x", link: str = "") -> File:
    return File(path, "" if link else hashlib.sha256(content).hexdigest(), len(content), link=link)


def layer(*files: File, kind: Kind = "dist") -> Layer:
    return Layer("0" * 64, kind, "pkg", files=files)


PKG = (
    file("site/pkg-1.0.dist-info/METADATA"),
    file("site/pkg/a, b.py"),
    file("bin/tool"),
    file("data/share/x"),
    file("site/pkg/link", link="other"),
)


def test_record_lists_each_file_as_it_lies_in_the_environment() -> None:
    made = dict(written(layer(*PKG)))
    found = list(rows(made["site/pkg-1.0.dist-info/RECORD"].decode(), "pkg"))
    x = hashlib.sha256(b"x").hexdigest()
    assert [tuple(row) for row in found] == [
        ("pkg-1.0.dist-info/METADATA", x, 1),
        ("pkg/a, b.py", x, 1),
        ("../../../bin/tool", x, 1),
        ("../../../share/x", x, 1),
        ("pkg/link", "", -1),
        ("pkg-1.0.dist-info/INSTALLER", hashlib.sha256(b"bigmachine\n").hexdigest(), 11),
        ("pkg-1.0.dist-info/RECORD", "", -1),
    ]
    assert made["site/pkg-1.0.dist-info/INSTALLER"] == b"bigmachine\n"


def test_a_copy_of_a_distribution_inside_another_is_not_its_own() -> None:
    inside = file("site/pkg/_vendor/other-2.0.dist-info/METADATA")
    assert names(layer(*PKG, inside)) == names(layer(*PKG))


def test_what_is_no_distribution_has_none() -> None:
    assert names(layer(*PKG, kind="patch")) == ()
    assert names(layer(*PKG[1:])) == ()
    assert names(layer(*PKG, file("site/two-1.0.dist-info/METADATA"))) == ()
