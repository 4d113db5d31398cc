"""What is said of adapters that cannot be read: the way out that is always open, a few of many names, all problems at once."""

import contextlib
from collections.abc import Iterator

from src.errors import UserError

WAY_OUT = "merge it with peft's merge_and_unload, save the model, and give that folder"
NAMED = 3  # of many names, as many as a sentence holds


def listed(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


@contextlib.contextmanager
def added_to(problems: list[str]) -> Iterator[None]:
    """Leave the block at a UserError, whose problems go to `problems`."""
    try:
        yield
    except UserError as reason:
        problems += reason.problems
