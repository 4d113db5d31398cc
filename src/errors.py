"""`UserError`, the one exception that means "the user can fix this": scripts print its sentences and no traceback."""

import contextlib
from collections.abc import Collection, Iterable, Iterator

LONGEST_SENTENCE = 4000  # letters; the names in it may be a stranger's


class UserError(ValueError):
    """One or more problems, each a sentence that says what, which, and what to do about it.

    problems: the sentences, each one line that a terminal can show.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [escaped(problem) for problem in ([problems] if isinstance(problems, str) else problems)]
        super().__init__("\n".join(self.problems))


def escaped(text: str) -> str:
    """Return a text with escapes for what a terminal obeys or cannot show, without its middle if it is very long."""
    if len(text) > LONGEST_SENTENCE:
        half = LONGEST_SENTENCE // 2
        text = f"{text[:half]} ... {text[-half:]}"
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


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
