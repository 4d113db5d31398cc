"""JSON values of any shape, no longer than a page holds: what has not the shape that is looked for counts as missing."""

import math
from collections.abc import Mapping, Sequence

LONGEST = 400  # characters of a text in a page


def at(value: object, *path: str) -> object:
    """Return what stands at a path of keys; None if nothing does."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def mapping(value: object) -> Mapping:
    """Return a table; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> list:
    """Return a list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def number(value: object, digits: int = 4) -> float | None:
    """Return a finite number with at most so many digits behind the point; None for anything else."""
    if type(value) not in (int, float):  # a bool is an int, too
        return None
    try:
        rounded = round(float(value), digits)
    except OverflowError:
        return None
    return rounded if math.isfinite(rounded) else None


def text(value: object) -> str:
    """Return a value as a text of bounded length, as options are typed; `` for None."""
    if isinstance(value, list):
        value = f"[{','.join(map(text, value[:LONGEST]))}]"
    shown = "" if value is None else value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} …"


def spread(values: Sequence, most: int) -> list:
    """Return at most so many of the values, evenly spread, with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[number * (len(values) - 1) // (most - 1)] for number in range(most)]
