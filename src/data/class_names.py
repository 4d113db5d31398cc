"""Which class is which: names are compared without case, spaces and punctuation, and labels follow the names."""

import re
from collections.abc import Sequence

from src.data.task import Name
from src.errors import shorten


def synonyms(name: Name) -> tuple[str, ...]:
    return (name,) if isinstance(name, str) else tuple(name)


def plain(name: str) -> str:
    """What is compared of a name."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def labels_of(found: Sequence[str], known: Sequence[tuple[str, ...]]) -> list[int] | None:
    """The label of each name found, where `known` has all that each class may be called; None unless one to one.

    Numbers (folders 0, 1, 10, 2 ...) are labels themselves.
    """
    owner = {plain(name): label for label, names in enumerate(known) for name in names}
    labels = [owner.get(plain(name), -1) for name in found]
    if sorted(labels) != list(range(len(known))) and all(re.fullmatch("[0-9]+", name) for name in found):
        labels = [int(name) for name in found]
    return labels if sorted(labels) == list(range(len(known))) else None


def difference(found: Sequence[str], known: Sequence[tuple[str, ...]]) -> str:
    """Some names that only one side has, for a sentence."""
    ours, theirs = {plain(name) for names in known for name in names}, {plain(name) for name in found}
    strange = [name for name in found if plain(name) not in ours]
    absent = [names[0] for names in known if not {plain(name) for name in names} & theirs]
    said = [f"{shorten(strange)} unknown"] if strange else []
    said += [f"{shorten(absent)} not there"] if absent else []
    return "; ".join(said) or "some name stands twice"


def words(name: str) -> str:
    return name.replace("_", " ")
