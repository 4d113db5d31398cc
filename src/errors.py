"""`UserError`, the one exception that means "the user can fix this": scripts print its sentences and no traceback."""

import contextlib
from collections.abc import Collection, Iterable, Iterator


class UserError(ValueError):
    """One or more problems, each a sentence that says what, which, and what to do about it.

    problems: the sentences.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def raise_any(problems: Iterable[str]) -> None:
    """Raise all `problems` as one UserError; do nothing if there are none."""
    sentences = list(problems)
    if sentences:
        raise UserError(sentences)


@contextlib.contextmanager
def collect(problems: list[str]) -> Iterator[None]:
    """Leave the block at a UserError, whose problems are appended to `problems`."""
    try:
        yield
    except UserError as error:
        problems += error.problems


def shorten(things: Collection[object], most: int = 3) -> str:
    """Return the first `most` of many things for a sentence, each cut to 200 characters: `a, b, c and 7 more`."""
    more = f" and {len(things) - most} more" if len(things) > most else ""
    texts = (str(thing) for thing, _ in zip(things, range(most)))
    return ", ".join(text if len(text) <= 200 else f"{text[:200]}..." for text in texts) + more
