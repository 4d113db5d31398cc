"""Checks on the values that users give."""

import sys


def is_number(value: object) -> bool:
    """Whether `value` is a finite int or float, and no bool."""
    largest = sys.float_info.max  # which an int may pass
    return isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest


def is_whole(value: object, least: int = 0) -> bool:
    """Whether `value` is an int of at least `least`, and no bool."""
    return type(value) is int and value >= least
