"""Rows of tables, as a source of a text task."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import xxhash

from src.data.location import Location
from src.data.readers.protocol import listing_digest
from src.data.readers.tables import Tables
from src.data.task import Examples
from src.data.text.wording import TemplateWording
from src.errors import UserError
from src.runtime.progress import SILENT, Progress


@dataclass(frozen=True, eq=False)
class RowDataset:
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

    def fingerprint(self, subset: str) -> str:
        """Return a digest of the files, read once: the files of a run's data do not change under it."""
        if subset not in self._fingerprints:
            reader = self.location.reader
            facts = [reader.kind, dict(reader.columns), listing_digest(reader.root, reader.files(subset))]
            self._fingerprints[subset] = xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())
        return self._fingerprints[subset]

    @property
    def notes(self) -> list[str]:
        """A sentence if a published dataset lies in other files, whose order may be another."""
        root = self.location.reader.root
        if not self.sizes or root in self.pinned:
            return []
        return [f"{self.name}: validation is the last rows of {root}, whose order may not be that of the published files"]

    def problems(self, was_fetched: bool = False) -> list[str]:
        return self.location.problems(was_fetched)

    @property
    def is_fetchable(self) -> bool:
        return self.location.is_fetchable

    def fetch(self, progress: Progress = SILENT) -> None:
        self._fingerprints.clear()
        self.location.fetch(progress)
