"""The meter of what a template makes of a row: what would take too long or too much memory is refused.

A step of a loop costs the size of its body, and what is made costs its size; where it can be much larger than what it is
made of, before it is made.
"""

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

MOST_WORK = 2**20  # characters and values that are made, and parts of loops that are passed, for one row
LONGEST_RANGE = 1000

_work_left: ContextVar[int] = ContextVar("work_left")


class TemplateFault(ValueError):
    """What is wrong with a template, or with a row in it: the end of a sentence that names it."""


@contextlib.contextmanager
def metered_row() -> Iterator[None]:
    """Meter the work of this block as that of one row."""
    token = _work_left.set(MOST_WORK)
    try:
        yield
    finally:
        _work_left.reset(token)


def size_of(value: object) -> int:
    """Return how many characters and values a value holds, or some number that is more than may be made."""
    size, left = 0, [value]
    while left and size <= MOST_WORK:
        part = left.pop()
        size += 1
        if isinstance(part, str | bytes):
            size += len(part)
        elif isinstance(part, int):
            size += part.bit_length() // 8
        elif isinstance(part, dict):
            left += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple):
            left += part
    return size


def pay(work: int) -> None:
    """Take work off what is left for the row. Raise TemplateFault if it is more."""
    left = _work_left.get() - work
    if left < 0:
        raise TemplateFault(f"makes more than {MOST_WORK:,} characters of a row, or loops as often; shorten it or the row")
    _work_left.set(left)


def paid(value: object) -> object:
    """Return the value, which costs its size."""
    pay(size_of(value))
    return value


def steps(values: Iterable, cost: int) -> Iterator:
    """Yield the values, each of which costs."""
    for value in values:
        pay(cost)
        yield value


def string(value: object) -> str:
    """Return the value as text."""
    if not isinstance(value, str):
        pay(size_of(value))
    return value if isinstance(value, str) else str(value)


def join(values: Iterable, separator: object = "") -> str:
    """Return the values as one text."""
    texts, between = [string(value) for value in values], string(separator)
    pay(len(between) * len(texts) + sum(map(len, texts)))
    return between.join(texts)


def replace(text: object, old: str, new: str) -> str:
    """Return a text with `new` wherever it has `old`."""
    text = string(text)
    pay(text.count(old) * len(new))
    return text.replace(old, new)


def join_by(separator: str, values: Iterable) -> str:
    """Return the values as one text: `join` as a method of the separator."""
    return join(values, separator)


def bounded_range(*limits: int) -> range:
    """Return a range. Raise TemplateFault if it is long."""
    numbers = range(*limits)
    if len(numbers) > LONGEST_RANGE:
        raise TemplateFault(f"counts to more than {LONGEST_RANGE:,}; shorten its range")
    return numbers
