"""`UserError`, the one exception that means "the user can fix this", and parts of its sentences: scripts print no traceback."""

import contextlib
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches

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


def plural(count: int, noun: str) -> str:
    """Return a number of things: `1 task`, `2 tasks`, `3 classes`, `4 entries`."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else many}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is most like another, whatever their case; None if none is like it."""
    by_lower = {each.lower(): each for each in names}
    matches = get_close_matches(name.lower(), by_lower, n=1)
    return name if name in by_lower.values() else by_lower[matches[0]] if matches else None


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return the end of a sentence on a name that is none of `names`: the nearest of them, or all."""
    names = list(names)
    near = nearest(name, names)
    return f"did you mean {near}?" if near else f"choose among {', '.join(names)}"
