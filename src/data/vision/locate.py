"""Where a dataset lies on disk, and its download."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from src.data.readers.image_folders import own_folders
from src.data.readers.parquet import Parquet
from src.data.readers.protocol import ExampleReader, require_regular
from src.data.readers.torchvision import Torchvision
from src.data.vision.hub_copy import HubCopy
from src.data.vision.spec import DatasetSpec
from src.data.vision.torchvision_download import download_by_torchvision
from src.errors import UserError, shorten
from src.runtime.files import expand_path
from src.runtime.progress import SILENT, Prefixed, Progress

FOLDERS = "images in train/<class>/ and test/<class>/, or train*.parquet and test*.parquet"


@dataclass(frozen=True, eq=False)
class DatasetLocation:
    """The location of a dataset: finds the reader of its examples, and downloads them.

    spec: the dataset.
    data: the folder that datasets lie below.
    source: a folder of the user's own or a Hub id, instead.
    patterns: of parquet files, which files.
    columns: of parquet files, what the columns `image` and `label` are called.
    """

    spec: DatasetSpec
    data: Path
    source: str | None = None
    patterns: Sequence[str] | None = None
    columns: Mapping[str, str] | None = None

    @cached_property
    def reader(self) -> ExampleReader:
        """The first reader that lacks no file. Raise UserError if there is none, or if it would read what is no regular file."""
        complete = next((reader for reader in self._candidates() if not reader.missing_files()), None)
        if complete is None:
            raise UserError(self.problems())
        require_regular(complete)
        return complete

    def problems(self, was_fetched: bool = False) -> list[str]:
        """Return what is missing, as `Task.problems` does."""
        gaps = []
        for reader in self._candidates():
            missing = reader.missing_files()
            if not missing:
                return []
            gaps.append(f"{reader.root} lacks {shorten(missing)}")
        where = " and ".join(dict.fromkeys(gaps))
        if was_fetched:
            return [f"{self.spec.name} was downloaded and is not whole ({where}); {self._manual_remedy}"]
        remedy = "download=true fetches it, or " if self.is_fetchable else ""
        return [f"{self.spec.name} is not there ({where}); {remedy}{self._manual_remedy}"]

    @property
    def is_fetchable(self) -> bool:
        """Whether the data can be downloaded."""
        return self._hub_copy is not None or self._torchvision is not None

    def fetch(self, progress: Progress = SILENT) -> None:
        """Download by torchvision, else from the copy on the Hub.

        progress: listener, in bytes.

        Raise UserError with why each failed.
        """
        name, failures = self.spec.name, []
        if self._torchvision:
            try:
                progress.report(f"{name} by torchvision", 0)  # which draws bars of its own
                return download_by_torchvision(name, self._torchvision, self.data)
            except UserError as error:
                failures += error.problems
        if hub_copy := self._hub_copy:
            try:
                return hub_copy.fetch(self.data, Prefixed(progress, f"{name} from {hub_copy.repository}: "))
            except UserError as error:
                failures += error.problems
        raise UserError(f"{name} was not downloaded: {'; '.join(failures) or 'nobody serves it'}; {self._manual_remedy}")

    def _candidates(self) -> list[ExampleReader]:
        """Return readers of all layouts and folders to try, best first, made anew each time: a download changes what is there."""
        folder = self._folder
        if folder is None:
            native = self._native_readers(self.data / self.spec.home) if self.source is None else []
            return native + ([self._hub_copy.reader(self.spec.name, self.data)] if self._hub_copy else [])
        native = [reader for root in dict.fromkeys((folder / self.spec.home, folder)) for reader in self._native_readers(root)]
        native += [reader for reader in self._native_readers(folder.parent) if _reads_only(folder, reader)]
        own = own_folders(folder)
        if any("test" in reader.folders.values() for reader in own):  # a user's own split, whatever else the folder holds
            native, own = [], [*own, *native]
        return [*native, *own, Parquet(self.spec.name, folder, self.patterns or ("*",), self.columns or {})]

    def _native_readers(self, root: Path) -> list[ExampleReader]:
        """Return readers of the papers' layouts below `root`."""
        return [make(root) for make in self.spec.readers]

    @cached_property
    def _folder(self) -> Path | None:
        """The user's folder; what exists as a path is a path."""
        if self.source is None:
            return None
        path = expand_path(self.source)
        return path if path.exists() or HubCopy.of(self.source) is None else None

    @property
    def _hub_copy(self) -> HubCopy | None:
        if self.source is None:
            return self.spec.hub_copy
        return HubCopy.of(self.source, self.patterns, self.columns) if self._folder is None else None

    @property
    def _torchvision(self) -> Torchvision | None:
        """The reader that can download."""
        native = self._native_readers(self.data / self.spec.home) if self.source is None else []
        return next((reader for reader in native if isinstance(reader, Torchvision) and reader.can_download), None)

    @property
    def _manual_remedy(self) -> str:
        """What to do by hand, in words."""
        if self._folder is not None:
            native = f", or {self.spec.layout}" if self.spec.layout else ""
            return f"put {FOLDERS}{native} in {self._folder}"
        if self.source is not None:
            return (
                f"give a folder, or a dataset on the Hub with parquet files for train and test, as tasks.{self.spec.name}.source"
            )
        home = f"put it below {self.data} as {self.spec.layout}, or give" if self.spec.layout else "give"
        return f"{home} tasks.{self.spec.name}.source=FOLDER ({FOLDERS})"


def _reads_only(folder: Path, reader: ExampleReader) -> bool:
    """Whether all that a reader of the parent folder needs is in `folder`: the user named the innermost one of a layout."""
    return all(file.is_relative_to(folder) for subset in reader.subsets for file in reader.files(subset))
