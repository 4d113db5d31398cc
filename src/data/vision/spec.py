"""The specification of a dataset: what is known of it before any of it is downloaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.data.class_names import ClassName
from src.data.hub_copy import HubCopy
from src.data.readers.protocol import ExampleReader


@dataclass(frozen=True)
class DatasetSpec:
    """The specification of one dataset.

    templates: prompts with a `{}` for the class name.
    class_count: number of classes it was published with; None for a user's own, which may have any.
    sizes: number of examples it was published with, by subset.
    layout: how it lies below data_location in the papers' code, in words.
    home: the folder below data_location that it lies in.
    readers: for each form of this layout, best first, what makes its reader, called with that folder.
    hub_copy: its copy on the Hub.
    classes: names in label order; None for a user's own, whose data says them.
    aliases: by the first name of a class, what else data may call it.
    codes: pattern of the codes that data may call classes by, whose sorted order is the label order.
    is_sorted_by_name: whether the papers have the examples by class, then by the name of the file, so that any copy can
        be put into their order.
    """

    name: str
    templates: Sequence[str]
    class_count: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    layout: str = ""
    home: str = ""
    readers: Sequence[Callable[[Path], ExampleReader]] = ()
    hub_copy: HubCopy | None = None
    classes: Sequence[ClassName] | None = None
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    codes: str | None = None
    is_sorted_by_name: bool = False
