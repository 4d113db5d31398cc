"""A dataset on disk, checked against what was published."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import xxhash

from src.data.readers.errors import problems_of
from src.data.readers.image_folders import ImageFolders, ListedImages
from src.data.readers.parquet import Parquet, Rows
from src.data.readers.protocol import Place, listing_digest
from src.data.task import Examples, Name
from src.data.vision.labels import Named, Relabelled, named, published_names
from src.data.vision.locate import Whereabouts
from src.data.vision.spec import Row
from src.errors import UserError


@dataclass(frozen=True, eq=False)
class Collection:
    """The examples of a row; `given` are class names in label order that replace the row's own."""

    kind: ClassVar[str] = "Collection"

    row: Row
    whereabouts: Whereabouts
    given: Sequence[Name] | None = None
    _states: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def classes(self) -> Sequence[Name]:
        """Of a published dataset before any of its data is there."""
        return published_names(self.row, self.given) or self._named[0]

    @property
    def parts(self) -> tuple[str, ...]:
        """Of a published dataset only the parts it was used with."""
        return tuple(part for part in self._place.parts if self.row.count is None or part in self.row.sizes)

    def part(self, part: str) -> Examples:
        place, (names, labels) = self._place, self._named
        with self._reading:
            examples = place.load(part)
            files = place.file_names(part) if self.row.by_name and isinstance(place, Parquet) else None
        published = self.row.sizes.get(part)
        if published not in (None, len(examples)):
            raise UserError(
                f"{self.row.name}: {place.root} has {len(examples):,} examples in its {part} part, and the published one has "
                f"{published:,}; mend or remove it, or give these examples as a task of your own, under another name"
            )
        if not len(examples):
            raise UserError(f"{self.row.name}: the {part} part at {place.root} has no examples; put some there")
        if isinstance(examples, Rows) and examples.labels.max() >= len(names):
            raise UserError(
                f"{self.row.name}: {place.root} has label {examples.labels.max()}, but {len(names)} classes; "
                f"give all of them as 'tasks.{self.row.name}.classes=[NAME,...]', or mend the labels"
            )
        if files:
            examples = examples.sorted_by(labels, files)
        return examples if labels is None else Relabelled(examples, labels)

    def state(self, part: str) -> str:
        """Read once: the files of a run's data do not change under it."""
        if part not in self._states:
            self._states[part] = self._state(part)
        return self._states[part]

    @property
    def notes(self) -> list[str]:
        """What keeps validation from being that of the papers, for a published dataset that is not in their layout."""
        place, row = self._place, self.row
        if row.count is None or place in [make(place.root) for make in row.places]:
            return []
        if "val" in row.sizes and "val" not in self.parts:
            return [
                f"{row.name}: {place.root} has no validation images of its own, as the papers' has; a tenth of train is drawn"
            ]
        in_folders = isinstance(place, ImageFolders | ListedImages)
        if "val" in self.parts or (row.by_name and (in_folders or (isinstance(place, Parquet) and place.file_names("train")))):
            return []
        return [f"{row.name}: validation is drawn from the order of {place.root}, which may not be the papers'"]

    def _state(self, part: str) -> str:
        place = self._place
        files = listing_digest(place.root, place.sources(part))
        told = [place.kind, self.row.classes, self.row.by_name, self.given, dict(self.whereabouts.columns or {}), files]
        return xxhash.xxh3_128_hexdigest(json.dumps(told).encode())

    def problems(self, fetched: bool = False) -> list[str]:
        return self.whereabouts.problems(fetched)

    @property
    def fetchable(self) -> bool:
        return self.whereabouts.fetchable

    def fetch(self, plan: Callable[[int], None] | None = None, report: Callable[[str, int], None] | None = None) -> None:
        self._states.clear()
        self.whereabouts.fetch(plan, report)

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
