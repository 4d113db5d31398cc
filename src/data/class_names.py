"""Matching of class names, without case, spaces and punctuation; labels follow from the names."""

import re
from collections.abc import Sequence

from src.errors import UserError, shorten

ClassName = str | tuple[str, ...]  # one name, or synonyms


def synonyms(name: ClassName) -> tuple[str, ...]:
    """Return all names of a class."""
    return (name,) if isinstance(name, str) else tuple(name)


def match_key(name: str) -> str:
    """Return what names are compared by: their letters and digits, in lower case."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def labels_of(names: Sequence[str], classes: Sequence[tuple[str, ...]]) -> list[int] | None:
    """Return the label of each name; None unless names and classes match one to one.

    Names that are numbers (folders 0, 1, 10, 2 ...) and no classes' names are labels themselves.

    classes: in label order, all names that each class may have.
    """
    expected = list(range(len(classes)))
    label_of = {match_key(variant): label for label, variants in enumerate(classes) for variant in variants}
    labels = [label_of.get(match_key(name), -1) for name in names]
    if sorted(labels) != expected and all(re.fullmatch("[0-9]+", name) for name in names):
        labels = [int(name) for name in names]
    return labels if sorted(labels) == expected else None


def difference(names: Sequence[str], classes: Sequence[tuple[str, ...]]) -> str:
    """Return some names that only one side has, for a sentence.

    classes: as in `labels_of`.
    """
    class_keys = {match_key(variant) for variants in classes for variant in variants}
    name_keys = {match_key(name) for name in names}
    unknown = [name for name in names if match_key(name) not in class_keys]
    absent = [variants[0] for variants in classes if not {match_key(variant) for variant in variants} & name_keys]
    phrases = [f"{shorten(unknown)} unknown"] if unknown else []
    phrases += [f"{shorten(absent)} not there"] if absent else []
    return "; ".join(phrases) or "some name stands twice"


def require_text(names: Sequence[object], where: object) -> None:
    """Raise UserError if a name of a class is no text, or no text that can be written (half a character, as in a folder's
    name in another encoding).

    where: the data, for the sentence.
    """
    for name in names:
        if not isinstance(name, str) or name != name.encode(errors="replace").decode():
            raise UserError(f"{where} has a class called {ascii(name)[:100]}, which is no text in UTF-8; rename it")


def words(name: str) -> str:
    """Return the name of a folder as words."""
    return name.replace("_", " ")
