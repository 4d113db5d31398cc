"""A row: what is known of a dataset before any of it is there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.data.mirror import Mirror
from src.data.place import Place
from src.data.task import Name


@dataclass(frozen=True)
class Row:
    """One dataset.

    count, sizes: how many classes, and examples in each part, it was published with (no count: a user's own, any);
    layout: how it lies below data_location in the papers' code, in words;
    home, places: the folder below data_location, and what reads it there;
    mirror: a copy on the Hub;
    classes: names in label order, where they do not come with the data; aliases: what else data may call each;
    spoken: from a name in the data to one for prompts; alphabetical: labels follow the sorted names;
    codes: the data has codes for names, in label order.
    """

    name: str
    templates: Sequence[str]
    count: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    layout: str = ""
    home: str = ""
    places: Sequence[Callable[[Path], Place]] = ()
    mirror: Mirror | None = None
    classes: Sequence[Name] | None = None
    aliases: Sequence[Name] = ()
    spoken: Callable[[str], str] = str
    alphabetical: bool = False
    codes: bool = False
