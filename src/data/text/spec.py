"""The specification of a text task: what is known of it before any of its data is there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from src.data.hub_copy import HubCopy
from src.data.readers.tables import Row


@dataclass(frozen=True)
class Field:
    """What a row says in one of its columns.

    read: returns it, of the column's value.
    """

    column: str
    read: Callable[[object], object]

    def __call__(self, row: Row) -> object:
        return self.read(row[self.column])


@dataclass(frozen=True)
class TextSpec:
    """The specification of one text task.

    prompts: the folder of its templates in promptsource.
    copies: its copies on the Hub, best first.
    sizes: number of rows it was published with, by subset.
    held_out: how many of the last training rows are for validation.
    label: the index of a row's right choice; None where answers are generated.
    references: the answers that count as right where they are generated.
    metrics: the metrics of promptsource whose templates are taken.
    ignored: names of promptsource's templates that are not.
    roles: which of the published subsets has its training and which its test rows.
    columns: what columns are called in the publisher's own files, where that differs from the Hub's.
    layout: its files below data_location, in words, where nobody serves them.
    """

    name: str
    prompts: str
    copies: Sequence[HubCopy]
    sizes: Mapping[str, int]
    held_out: int = 1000
    label: Field | None = None
    references: Field | None = None
    metrics: Sequence[str] = ("Accuracy",)
    ignored: Sequence[str] = ()
    roles: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "test": "val"})
    columns: Mapping[str, str] = field(default_factory=dict)
    layout: str = ""
