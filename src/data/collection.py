"""A dataset on disk, checked against what was published."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import xxhash

from src.data.download import problems_of
from src.data.labels import Named, Relabelled, named
from src.data.parquet import Rows
from src.data.place import Place, listing_digest
from src.data.row import Row
from src.data.task import Examples, Name
from src.data.whereabouts import Whereabouts
from src.errors import UserError


@dataclass(frozen=True, eq=False)
class Collection:
    """The examples of a row; `given` are class names in label order that replace the row's own."""

    row: Row
    whereabouts: Whereabouts
    given: Sequence[Name] | None = None

    @property
    def classes(self) -> Sequence[Name]:
        return self._named[0]

    @property
    def parts(self) -> tuple[str, ...]:
        """Of a published dataset only the parts it was used with."""
        return tuple(part for part in self._place.parts if self.row.count is None or part in self.row.sizes)

    def part(self, part: str) -> Examples:
        place, (names, labels) = self._place, self._named
        with self._reading:
            examples = place.load(part)
        published = self.row.sizes.get(part)
        if published not in (None, len(examples)):
            raise UserError(
                f"{self.row.name}: {place.root} has {len(examples):,} examples in its {part} part, and the published one has "
                f"{published:,}; mend or remove it, or give these examples as a task of your own, under another name"
            )
        if not len(examples):
            raise UserError(f"{self.row.name}: the {part} part at {place.root} has no examples; put some there")
        if isinstance(examples, Rows) and examples.labels.max() >= len(names):
            raise UserError(f"{self.row.name}: {place.root} has label {examples.labels.max()}, but {len(names)} classes")
        return examples if labels is None else Relabelled(examples, labels)

    def state(self, part: str) -> str:
        place = self._place
        files = listing_digest(place.root, place.sources(part))
        told = [type(place).__name__, self.row.classes, self.given, dict(self.whereabouts.columns or {}), files]
        return xxhash.xxh3_128_hexdigest(json.dumps(told).encode())

    def problems(self) -> list[str]:
        return self.whereabouts.problems()

    @property
    def fetchable(self) -> bool:
        return self.whereabouts.fetchable

    def fetch(self) -> None:
        self.whereabouts.fetch()

    @cached_property
    def _named(self) -> Named:
        place = self._place
        with self._reading:
            return named(self.row, place.names(), self.given, str(place.root))

    @property
    def _place(self) -> Place:
        return self.whereabouts.place

    @property
    def _reading(self):
        return problems_of(f"{self.row.name} cannot be read from {self._place.root}", "mend it, or remove it and get it anew")
