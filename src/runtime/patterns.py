"""Regular expressions that others wrote: compiling and matching them ends.

Matching `(a+)+$` takes two to the power of a name's length, and Python's `re` cannot be stopped; `regex` can. It writes
counted repeats out when it compiles, so their product is bounded.
"""

import math
import re
import time
from dataclasses import dataclass

import regex

MAX_LENGTH = 1000  # letters of a pattern
MAX_REPEATS = 100  # the product of all counts in braces
SECONDS = 3.0  # of processor time; a match of an ordinary pattern and a name takes microseconds


class PatternError(ValueError):
    """A pattern that is no regular expression, or takes too long."""


@dataclass
class TimeLimit:
    """Seconds of processor time that several patterns may take together."""

    seconds: float = SECONDS


class Pattern:
    """A compiled regular expression, as `re.Pattern`, whose matching raises PatternError when its time is over.

    groups: number of its groups.
    """

    def __init__(self, text: str, limit: TimeLimit):
        self._compiled, self._text, self._limit = regex.compile(text), text, limit
        self.groups = self._compiled.groups

    def search(self, name: str) -> regex.Match | None:
        """Return the first match in a name."""
        return self._timed(self._compiled.search, name)

    def fullmatch(self, name: str) -> regex.Match | None:
        """Return the match of a whole name."""
        return self._timed(self._compiled.fullmatch, name)

    def _timed(self, match, name: str) -> regex.Match | None:
        start = time.process_time()
        try:
            return match(name, timeout=max(self._limit.seconds, 1e-3))
        except (TimeoutError, MemoryError) as error:
            raise PatternError(f"{self._text} takes too long to match; write it without repeats in repeats") from error
        finally:
            self._limit.seconds -= time.process_time() - start


def compile_pattern(text: str, limit: TimeLimit | None = None) -> Pattern:
    """Return a compiled regular expression.

    limit: the time that matching may take in all, which patterns may share.

    Raise PatternError if it is none, or is too long.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise PatternError(f"a regular expression is a text of at most {MAX_LENGTH} letters")
    counts = [int(number) for pair in re.findall(r"\{(\d{0,9}),?(\d{0,9})\}", text) for number in pair if number]
    if math.prod(max(count, 1) for count in counts) > MAX_REPEATS:
        raise PatternError(f"{text} repeats things more than {MAX_REPEATS} times")
    try:
        re.compile(text)  # which knows less than `regex`, such as patterns within themselves
        return Pattern(text, limit or TimeLimit())
    except (re.error, regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise PatternError(f"{text} is no regular expression ({error})") from error
