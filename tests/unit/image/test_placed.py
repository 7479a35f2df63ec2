from __future__ import annotations

import marshal
import pickle

import pytest

from bigmachine.image.manifest import File, Layer
from bigmachine.image.scan.placed import Placed, compiled, place

FOUND = [
    (File("site/b.so", "22" * 32, 7, True), "/s/b.so"),
    (File("site/a.py", "11" * 32, 2**40), "/s/a.py"),
    (File("site/odd\n\udcff", "33" * 32, 0), "/s/odd\n\udcff"),
]
ELSEWHERE = [*FOUND, (File("bin/x", "44" * 32, 1), "/p/bin/x"), (File("site/link", "", 0, link="a.py"), "/s/link")]


def remembered(placed: Placed) -> Placed:
    plain = marshal.loads(marshal.dumps(placed.plain("/s/", "site/"), 2))
    return Placed.of_plain(plain, [*placed.sources, "/s/watched besides"], "/s/", "site/")


@pytest.mark.parametrize("found", [FOUND, ELSEWHERE, []])
def test_what_is_remembered_of_a_layer_is_all_of_it(found: list[tuple[File, str]]) -> None:
    placed = place("dist", "x", found, version="1", pure=False, escapes=True)
    again = remembered(placed)
    assert again == placed
    assert hash(again.layer) == hash(placed.layer)
    assert again.sources == placed.sources
    assert len(again.layer.files) == len(found)
    assert bool(again.layer.files) == bool(found)
    assert list(again.layer.files) == sorted(file for file, _ in found)
    assert pickle.loads(pickle.dumps(again.layer)) == placed.layer


def test_remembered_files_are_a_sequence() -> None:
    files = remembered(place("dist", "x", FOUND)).layer.files
    assert files[0] == File("site/a.py", "11" * 32, 2**40)
    assert tuple(files[1:]) == tuple(files)[1:]
    assert files != (files[0],)
    assert isinstance(files[1].executable, bool)


def test_layers_are_pure_unless_something_is_compiled_for_one_platform() -> None:
    assert place("tree", "x", FOUND[1:]).layer.pure
    assert not place("tree", "x", FOUND).layer.pure
    names = ["a.so", "b.so.1.2", "c.pyd", "d.dylib", "e.py", "so", "f.sort"]
    assert compiled([File(name, "", 0) for name in names]) == names[:4]


def test_the_same_files_are_the_same_layer_in_whatever_order_they_are_found() -> None:
    one, other = place("dist", "x", FOUND), place("patch", "y", reversed(FOUND), mount="roots/0-x")
    assert one.layer.id == other.layer.id
    assert isinstance(one.layer, Layer)
