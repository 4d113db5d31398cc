"""The one exception that means "the user can mend this": scripts print its sentences and no traceback."""

import contextlib
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """One or more problems, each a sentence that says what, which, and what to do about it."""

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def raise_any(problems: Iterable[str]) -> None:
    """Raise all `problems` as one UserError; do nothing if there are none."""
    found = list(problems)
    if found:
        raise UserError(found)


@contextlib.contextmanager
def added_to(problems: list[str]) -> Iterator[None]:
    """Leave the block at a UserError, whose problems go to `problems`."""
    try:
        yield
    except UserError as reason:
        problems += reason.problems
