"""What uv says of a package that it does not find becomes an error with the right remedy."""

from __future__ import annotations

import pytest

from bigmachine.image.foreign.unresolved import explained, is_of_platform

PLATFORM = "Linux on x86_64, Python 3.11"
MISSING = "Because six-x was not found in the package registry and you require six-x, we can conclude that"
NO_VERSION = "Because there is no version of six==99.1 and you require six==99.1, we can conclude that"
SOURCE_ONLY = "Because all versions of docopt have no usable wheels and you require docopt, we can conclude"
ELSEWHERE = "And because pywin32>=303 has no wheels with a matching platform tag (e.g., `manylinux_2_36_x86_64`)"
NO_NAME = "error: Failed to fetch: http://index/six/\n  cause: dns error\n  cause: failed to lookup address information"
REFUSED = "Because six was not found in the package registry\nhint: An index (http://i) returned a 403 Forbidden error."


@pytest.mark.parametrize(("said", "asked"), [(MISSING, "six-x"), (NO_VERSION, "six==99.1")])
def test_what_no_index_has_is_to_be_named_correctly(said: str, asked: str) -> None:
    text = str(explained(said, PLATFORM, [asked, "numpy==2.0"], [asked]))
    assert text.startswith(f"resolve: {asked} is in no package index")
    assert "correct its name or version in Image(packages=...)" in text
    assert "without" not in text
    assert text.endswith(said)
    assert not is_of_platform(said)


@pytest.mark.parametrize("said", [NO_NAME, REFUSED])
def test_an_index_that_does_not_answer_is_said_to_be_that(said: str) -> None:
    text = str(explained(said, PLATFORM, ["six"], ["six"]))
    assert text.startswith(f"resolve: six cannot be looked up for {PLATFORM}, since the package index was not reached")
    assert "HTTPS_PROXY" in text
    assert "without" not in text
    assert not is_of_platform(said)


@pytest.mark.parametrize(("said", "name"), [(SOURCE_ONLY, "docopt"), (ELSEWHERE, "pywin32")])
def test_what_has_no_wheel_is_named_with_the_platform(said: str, name: str) -> None:
    text = str(explained(said, PLATFORM, [name], [name]))
    assert text.startswith(f"resolve: {name} cannot be had for {PLATFORM}: there is no wheel of it. Ask Image(packages")
    installed = str(explained(said, PLATFORM, [f"{name}==1.0"], []))
    assert f"or leave it: Image(without=['{name}'])" in installed
    assert is_of_platform(said) == (name == "pywin32")


def test_what_is_installed_here_and_in_no_index_may_be_left() -> None:
    text = str(explained(NO_VERSION, PLATFORM, ["six==99.1"], []))
    assert "publish this one, or leave it: Image(without=['six'])" in text


def test_what_is_not_understood_is_told_as_it_was_said() -> None:
    text = str(explained("error: Unexpected '!'", PLATFORM, ["!!"], ["!!"]))
    assert text.startswith(f"resolve: a package cannot be had for {PLATFORM}")
    assert text.endswith("uv said: error: Unexpected '!'")
