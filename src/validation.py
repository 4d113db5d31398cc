"""Checks on the values that users give."""

import sys

from src.errors import UserError


def is_number(value: object) -> bool:
    """Whether `value` is a finite int or float, and no bool."""
    largest = sys.float_info.max  # which an int may pass
    return isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest


def is_whole(value: object, least: int = 0) -> bool:
    """Whether `value` is an int of at least `least`, and no bool."""
    return type(value) is int and value >= least


def check_share(name: str, value: object) -> None:
    """Raise UserError unless an option is a share of something, above 0 and at most all of it."""
    if not is_number(value) or not 0 < value <= 1:
        raise UserError(f"{name} is a share, above 0 and up to 1; got {value}")
