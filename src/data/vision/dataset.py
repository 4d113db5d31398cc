"""A dataset on disk, checked against what was published."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from src.data.class_names import ClassName
from src.data.located import LocatedSource
from src.data.location import Location
from src.data.readers.errors import dataset_errors
from src.data.readers.image_folders import ImageFolders, ListedImages
from src.data.readers.parquet import Parquet, ParquetExamples
from src.data.readers.protocol import ExampleReader
from src.data.task import Examples
from src.data.vision.labels import ClassMapping, RelabelledExamples, map_classes, published_names
from src.data.vision.spec import DatasetSpec
from src.errors import UserError, plural


@dataclass(frozen=True, eq=False)
class ImageDataset(LocatedSource):
    """The examples of a published dataset, or of a user's own, checked against what was published.

    spec: what is known of the dataset.
    location: where it lies.
    class_names: the user's, in label order, in place of the spec's.
    columns: the user's names of columns.
    """

    kind: ClassVar[str] = "Collection"

    spec: DatasetSpec
    location: Location[ExampleReader]
    class_names: Sequence[ClassName] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    _fingerprints: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def classes(self) -> Sequence[ClassName]:
        """Class names in label order; of a published dataset before any of its data is there."""
        return published_names(self.spec, self.class_names) or self._class_mapping[0]

    @property
    def subsets(self) -> tuple[str, ...]:
        """The subsets that are there; of a published dataset only those it was used with."""
        return tuple(subset for subset in self._reader.subsets if self.spec.class_count is None or subset in self.spec.sizes)

    def load(self, subset: str) -> Examples:
        """Return all examples of a subset, in the papers' order where that can be known.

        Raise UserError if they cannot be read, or are not as many as were published.
        """
        reader, (class_names, labels) = self._reader, self._class_mapping
        with self._reading_errors:
            examples = reader.load(subset)
            file_names = reader.file_names(subset) if self.spec.is_sorted_by_name and isinstance(reader, Parquet) else None
        published = self.spec.sizes.get(subset)
        if published not in (None, len(examples)):
            raise UserError(
                f"{self.spec.name}: {reader.root} has {plural(len(examples), 'example')} in its {subset} subset, the "
                f"published one has {published:,}; fix or remove it, or give it as a task of your own, under another name"
            )
        if not len(examples):
            raise UserError(f"{self.spec.name}: the {subset} subset at {reader.root} has no examples; put some there")
        if isinstance(examples, ParquetExamples) and examples.labels.max() >= len(class_names):
            raise UserError(
                f"{self.spec.name}: {reader.root} has label {examples.labels.max()}, but {plural(len(class_names), 'class')}; "
                f"give all of them as 'tasks.{self.spec.name}.classes=[NAME,...]', or fix the labels"
            )
        if file_names:
            examples = examples.sorted_by(labels, file_names)
        return examples if labels is None else RelabelledExamples(examples, labels)

    @property
    def decisive_facts(self) -> list:
        return [self.spec.classes, self.spec.is_sorted_by_name, self.class_names, dict(self.columns)]

    @property
    def notes(self) -> list[str]:
        """A sentence if a published dataset is in another layout than the papers', and validation may not be theirs."""
        reader, spec = self._reader, self.spec
        if spec.class_count is None or reader in [make(reader.root) for make in spec.readers]:
            return []
        if "val" in spec.sizes and "val" not in self.subsets:
            return [
                f"{spec.name}: {reader.root} has no validation images of its own, as the papers' has; a tenth of train is drawn"
            ]
        is_in_folders = isinstance(reader, ImageFolders | ListedImages)
        if "val" in self.subsets or (
            spec.is_sorted_by_name and (is_in_folders or (isinstance(reader, Parquet) and reader.file_names("train")))
        ):
            return []
        return [f"{spec.name}: validation is drawn from the order of {reader.root}, which may not be the papers'"]

    @cached_property
    def _class_mapping(self) -> ClassMapping:
        reader = self._reader
        with self._reading_errors:
            return map_classes(self.spec, reader.class_names(), self.class_names, str(reader.root))

    @property
    def _reader(self) -> ExampleReader:
        return self.location.reader

    @property
    def _reading_errors(self) -> AbstractContextManager[None]:
        return dataset_errors(f"{self.spec.name} cannot be read from {self._reader.root}", "fix it, or fetch it again")
