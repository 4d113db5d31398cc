"""A row: what is known of a dataset before any of it is there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.data.readers.protocol import ExampleReader
from src.data.task import Name
from src.data.vision.hub_copy import HubCopy


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset.

    count, sizes: how many classes, and examples in each part, it was published with (no count: a user's own, any);
    layout: how it lies below data_location in the papers' code, in words;
    home, places: the folder below data_location, and what reads it there;
    mirror: a copy on the Hub;
    classes: names in label order (none: a user's own, the data says them); aliases: what else data may call a class;
    codes: what class names in the data look like where they are codes whose sorted order is the label order;
    by_name: the papers' order of examples is by class, then by the name of the file, so any copy can be put into it.
    """

    name: str
    templates: Sequence[str]
    count: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    layout: str = ""
    home: str = ""
    readers: Sequence[Callable[[Path], ExampleReader]] = ()
    hub_copy: HubCopy | None = None
    classes: Sequence[Name] | None = None
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    codes: str | None = None
    by_name: bool = False
