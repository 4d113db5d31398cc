"""Rows of tables, as a source of a text task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from src.data.located import LocatedSource
from src.data.location import Location
from src.data.readers.tables import Tables
from src.data.task import Examples
from src.data.text.wording import TemplateWording
from src.errors import UserError


@dataclass(frozen=True, eq=False)
class RowDataset(LocatedSource):
    """The rows of a published dataset, or of a user's own.

    wording: says which columns are read.
    sizes: number of rows that were published, by subset; {} for a user's own.
    pinned: folders with the files that were published.
    """

    kind: ClassVar[str] = "Rows"

    name: str
    location: Location[Tables]
    wording: TemplateWording
    sizes: Mapping[str, int] = field(default_factory=dict)
    pinned: Sequence[Path] = ()
    _fingerprints: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def subsets(self) -> Sequence[str]:
        return self.location.reader.subsets

    def load(self, subset: str) -> Examples:
        """Return the rows of a subset in the order of their files. Raise UserError if they are not as many as were published."""
        reader = self.location.reader
        rows = reader.load(subset, self.wording.columns)
        published = self.sizes.get(subset)
        if published not in (None, len(rows)):
            raise UserError(
                f"{self.name}: {reader.root} has {len(rows):,} rows in its {subset} subset, the published one has {published:,}; "
                f"fix or remove it, or give these rows as a task of your own, under another name"
            )
        if not len(rows):
            raise UserError(f"{self.name}: the {subset} subset at {reader.root} has no rows; put some there")
        return rows

    @property
    def decisive_facts(self) -> list:
        return [dict(self.location.reader.columns)]

    @property
    def notes(self) -> list[str]:
        """A sentence if a published dataset lies in other files, whose order may be another."""
        root = self.location.reader.root
        if not self.sizes or root in self.pinned:
            return []
        return [f"{self.name}: validation is the last rows of {root}, whose order may not be that of the published files"]
