"""Numbers in arguments: what is none, or is out of bounds, is wrong usage, and the error says what is wanted."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Give what reads a whole number from `least` to `most`, for `add_argument(type=)`."""
    wanted = f"a whole number, at least {least}" if most is None else f"a whole number from {least} to {most}"

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
        return number

    return read


def seconds(text: str) -> float:
    """Read a time that is above 0 and has an end."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


__all__ = ["seconds", "whole"]
