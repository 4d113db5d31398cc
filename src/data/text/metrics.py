"""Metrics of generated answers: exact match and F1, as of SQuAD (Rajpurkar et al., 2016)."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

Metric = Callable[[str, Sequence[str]], float]  # of a prediction, given the answers that count as right; in 0..1

_PUNCTUATION = str.maketrans("", "", string.punctuation)  # of ASCII only: curly quotes stay
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the prediction is one of the references, normalised, else 0."""
    return float(any(_normalised(prediction) == _normalised(reference) for reference in references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """Return the F1 of the words of the prediction, of the reference where it is highest."""
    words = _normalised(prediction).split()
    return max((_word_f1(words, _normalised(reference).split()) for reference in references), default=0.0)


def squad(prediction: str, references: Sequence[str]) -> float:
    """Return the mean of exact match and F1."""
    return (exact_match(prediction, references) + f1(prediction, references)) / 2


def _normalised(text: str) -> str:
    """Return a text in lower case without punctuation, articles and repeated spaces; words that a hyphen joins become one."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _word_f1(words: Sequence[str], expected: Sequence[str]) -> float:
    """Return the F1 of words; 0 where both sides have none, though they match exactly."""
    shared = sum((Counter(words) & Counter(expected)).values())
    return 2 * shared / (len(words) + len(expected)) if shared else 0.0
