"""What a driver and a host say to each other about an image, before anything of it is sent."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.errors import ImageError
from bigmachine.image.manifest import File, Layer, Manifest, Platform, layer_id
from bigmachine.image.plan import (
    SMALL,
    check_listing,
    check_path,
    decode_head,
    encode_head,
    files,
    inflate,
    pack,
    rows,
    unpack,
)

PLATFORM = Platform("3.11.7", "cpython-311-x86_64-linux-gnu", "Linux", "x86_64", "glibc 2.36")
NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=()), min_size=1).filter(
    lambda name: name not in (".", "..")
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def some_files(number: int, scheme: str = "") -> tuple[File, ...]:
    return tuple(File(f"{scheme}mod_{each}.py", digest(str(each)), each) for each in range(number))


def tree(number: int) -> Layer:
    listed = some_files(number)
    return Layer(layer_id(listed), "tree", "project", files=listed, pure=True, mount="roots/0-project")


def distribution(number: int) -> Layer:
    listed = some_files(number, "site/")
    return Layer(layer_id(listed), "dist", f"package-{number}", f"1.{number}", listed)


def test_a_head_names_the_same_image_with_the_files_of_small_trees_only() -> None:
    manifest = Manifest(PLATFORM, (distribution(30), tree(5)), ("site", "roots/0-project"), ("{root}/roots/0-project",))
    read = decode_head(encode_head(manifest))
    assert read.digest == manifest.digest
    assert [tuple(layer.files) for layer in read.layers] == [(), tuple(manifest.layers[1].files)]


def test_a_large_tree_is_listed_when_it_is_asked_for() -> None:
    large = tree(SMALL + 1)
    manifest = Manifest(PLATFORM, (large,))
    assert decode_head(encode_head(manifest)).layers[0].files == ()
    assert len(decode_head(encode_head(manifest, [large.id])).layers[0].files) == SMALL + 1


def test_forty_distributions_and_a_project_take_less_than_sixteen_kilobytes() -> None:
    number = random.Random(3)
    layers = [
        Layer(number.randbytes(32).hex(), "dist", f"a-package-named-{at}", f"{number.randint(0, 99)}.1.{at}")
        for at in range(40)
    ]
    assert len(encode_head(Manifest(PLATFORM, (*layers, tree(64))))) < 16_000


@given(st.lists(NAMES, min_size=1, max_size=5))
def test_a_path_inside_is_taken_and_survives_the_way(parts: list[str]) -> None:
    path = "/".join(parts)
    check_path(path)
    listed = (File(path, digest("x"), 1),)
    assert files(unpack(pack(rows(listed)))) == listed


@given(st.lists(st.sampled_from(["a", "b", ".."]), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 1))
def test_a_link_is_taken_only_if_it_stays_inside(steps: list[str], depth: int, floor: int) -> None:
    at, lowest = depth, depth
    for step in steps:
        at += -1 if step == ".." else 1
        lowest = min(lowest, at)
    try:
        check_path("/".join([*"uvwx"[:depth], "link"]), "/".join(steps), floor)
    except ImageError:
        goes_up_late = ".." in steps[next((i for i, step in enumerate(steps) if step != ".."), len(steps)) :]
        assert lowest < floor or goes_up_late
    else:
        assert lowest >= floor


@pytest.mark.parametrize(
    "listed",
    [
        (File("a/b", digest("x"), 1), File("a", digest("y"), 1)),
        (File("a", digest("x"), 1), File("a", digest("x"), 1)),
        (File("a", digest("x"), -1),),
        (File("a", "../../x", 1),),
        (File("a", "", 1),),
    ],
)
def test_a_listing_that_cannot_be_of_files_is_refused(listed: tuple[File, ...]) -> None:
    with pytest.raises(ImageError, match=r"^listing: "):
        check_listing(layer_id(listed), listed, has_schemes=False)


@pytest.mark.parametrize("value", [[["a"]], [[1, "x", 2, 0, ""]], [["a", "x", "2", 0, ""]], [["a", "x", 2, 0, None]]])
def test_rows_that_describe_no_files_are_refused(value: list[object]) -> None:
    with pytest.raises(ValueError, match=r"unpack|described"):
        files(value)


def test_nothing_is_unpacked_beyond_its_limit() -> None:
    import zstandard

    assert inflate(zstandard.compress(bytes(1000)), 1000) == bytes(1000)
    with pytest.raises(ValueError, match="it unpacks to 1,000 bytes, and 999 are allowed"):
        inflate(zstandard.compress(bytes(1000)), 999)


def test_a_message_that_is_nested_too_deeply_is_refused() -> None:
    import zstandard

    with pytest.raises(ImageError, match="nested too deeply"):
        decode_head(zstandard.compress(b"[" * 100_000))


def test_a_name_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(ImageError, match=r"cannot be a file's name"):
        check_listing("0" * 64, (File("a\ud800", digest("x"), 1),), has_schemes=False)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_head_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"^offer: "):
        decode_head(data)
