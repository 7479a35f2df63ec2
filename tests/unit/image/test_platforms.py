from __future__ import annotations

import dataclasses

import pytest

from bigmachine.errors import ImageError
from bigmachine.image.foreign.uv import uv_platform
from bigmachine.image.manifest import Platform
from bigmachine.image.platforms import check_processor, takes, wheel_fits

OURS = Platform("3.11.7", "cpython-311-x86_64-linux-gnu", "Linux", "x86_64", "glibc 2.36")


@pytest.mark.parametrize("libc", ["glibc 2.36", "glibc 2.40", "glibc 3.0"])
def test_a_c_library_that_is_not_older_can_load_what_is_compiled_here(libc: str) -> None:
    assert takes(dataclasses.replace(OURS, libc=libc, python="3.11.2"), OURS)


@pytest.mark.parametrize(
    "other",
    [
        {"libc": "glibc 2.28"},
        {"libc": "musl 1.2"},
        {"machine": "aarch64"},
        {"system": "Darwin"},
        {"python": "3.12.1"},
        {"abi": "cpython-311d-x86_64-linux-gnu"},
    ],
)
def test_every_other_difference_needs_other_files(other: dict[str, str]) -> None:
    assert not takes(dataclasses.replace(OURS, **other), OURS)


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("cp311-cp311-manylinux_2_17_x86_64", True),
        ("cp39-abi3-manylinux2014_x86_64", True),
        ("cp311-cp311-manylinux_2_28_x86_64", True),
        ("cp311-cp311-manylinux_2_34_x86_64", False),
        ("cp311-cp311-linux_x86_64", False),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
    ],
)
def test_a_wheel_fits_an_older_c_library_if_it_was_built_for_that(tag: str, fits: bool) -> None:
    old = dataclasses.replace(OURS, libc="glibc 2.28")
    assert wheel_fits([tag], old, OURS) is fits
    assert not wheel_fits([tag], dataclasses.replace(old, machine="aarch64"), OURS)
    assert not wheel_fits([tag], dataclasses.replace(old, libc="musl 1.2"), OURS)


@pytest.mark.parametrize(
    ("system", "machine", "libc", "name"),
    [
        ("Linux", "x86_64", "glibc 2.36", "x86_64-manylinux_2_36"),
        ("Linux", "aarch64", "glibc 2.30", "aarch64-manylinux_2_28"),
        ("Linux", "x86_64", "glibc 2.99", "x86_64-manylinux_2_40"),
        ("Linux", "x86_64", "musl 1.2", "x86_64-unknown-linux-musl"),
        ("Darwin", "arm64", "", "aarch64-apple-darwin"),
    ],
)
def test_a_platform_has_the_name_of_the_newest_wheels_that_it_takes(
    system: str, machine: str, libc: str, name: str
) -> None:
    assert uv_platform(Platform("3.11.7", "", system, machine, libc)) == name


@pytest.mark.parametrize(("system", "machine", "libc"), [("Linux", "x86_64", "glibc 2.12"), ("AIX", "ppc64", "")])
def test_a_platform_without_wheels_is_refused(system: str, machine: str, libc: str) -> None:
    with pytest.raises(ImageError, match=f"no packages are known for {system} on {machine}"):
        uv_platform(Platform("3.11.7", "", system, machine, libc))


@pytest.mark.parametrize(
    ("abi", "machine"),
    [
        ("cpython-311-i386-linux-gnu", "x86_64"),
        ("cpython-311-arm-linux-gnueabihf", "aarch64"),
    ],
)
def test_a_python_with_32_bits_on_a_processor_with_64_is_named(abi: str, machine: str) -> None:
    built = abi.split("-")[2]
    with pytest.raises(ImageError, match=f"its Python is for {built}, and its processor is {machine}: take a system"):
        check_processor(dataclasses.replace(OURS, abi=abi, machine=machine))


@pytest.mark.parametrize(
    ("abi", "machine"),
    [
        ("cpython-311-x86_64-linux-gnu", "x86_64"),
        ("cpython-313t-aarch64-linux-musl", "aarch64"),
        ("cpython-311-aarch64-linux-gnu", "arm64"),
        ("cpython-311-darwin", "arm64"),
        ("", "x86_64"),
    ],
)
def test_other_pythons_are_for_their_processor_as_far_as_can_be_told(abi: str, machine: str) -> None:
    check_processor(dataclasses.replace(OURS, abi=abi, machine=machine))
