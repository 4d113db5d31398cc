"""Where a dataset lies on disk, and its download."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from src.data.hub_copy import HubCopy
from src.errors import UserError, shorten
from src.runtime.files import expand_path
from src.runtime.progress import SILENT, Progress
from src.runtime.untrusted import open_regular


class Reader(Protocol):
    """A reader of the examples below a folder, in one layout; making one reads nothing."""

    @property
    def root(self) -> Path:
        """The folder."""

    @property
    def subsets(self) -> Sequence[str]:
        """Those of `train`, `val` and `test` that are there."""

    def missing_files(self) -> list[str]:
        """Return what the layout needs and the folder lacks."""

    def files(self, subset: str) -> Iterable[Path]:
        """Return the files, and folders of files, that a subset is read from."""


SomeReader = TypeVar("SomeReader", bound=Reader)
Download = Callable[[Progress], None]  # raises UserError with what went wrong


@dataclass(frozen=True, eq=False)
class Location(Generic[SomeReader]):
    """The location of a dataset: finds the reader of its examples, and downloads them.

    name: of the dataset.
    candidates: returns readers of all layouts and folders to try, best first, made anew: a download changes what is there.
    downloads: the ways to download it, best first.
    remedy: what to do by hand, in words.
    """

    name: str
    candidates: Callable[[], Sequence[SomeReader]]
    downloads: Sequence[Download]
    remedy: str

    @cached_property
    def reader(self) -> SomeReader:
        """The first reader that lacks no file. Raise UserError if there is none, or if it would read what is no regular file."""
        complete = next((reader for reader in self.candidates() if not reader.missing_files()), None)
        if complete is None:
            raise UserError(self.problems())
        require_regular(complete)
        return complete

    def problems(self, was_fetched: bool = False) -> list[str]:
        """Return what is missing, as `Task.problems` does."""
        gaps = []
        for reader in self.candidates():
            missing = reader.missing_files()
            if not missing:
                return []
            gaps.append(f"{reader.root} lacks {shorten(missing)}")
        where = " and ".join(dict.fromkeys(gaps))
        if was_fetched:
            return [f"{self.name} was downloaded and is not whole ({where}); {self.remedy}"]
        download = "download=true fetches it, or " if self.is_fetchable else ""
        return [f"{self.name} is not there ({where}); {download}{self.remedy}"]

    @property
    def is_fetchable(self) -> bool:
        """Whether the data can be downloaded."""
        return bool(self.downloads)

    def fetch(self, progress: Progress = SILENT) -> None:
        """Download in the first way that works.

        progress: listener, in bytes.

        Raise UserError with why each failed.
        """
        failures = []
        for download in self.downloads:
            try:
                return download(progress)
            except UserError as error:
                failures += error.problems
        raise UserError(f"{self.name} was not downloaded: {'; '.join(failures) or 'nobody serves it'}; {self.remedy}")


def folder_or_copy(
    source: str | None, patterns: Sequence[str] | None, columns: Mapping[str, str] | None
) -> Path | HubCopy | None:
    """Return the folder, or the copy on the Hub, that a user's `source` names; what exists as a path is a path."""
    if source is None:
        return None
    path, hub_copy = expand_path(source), HubCopy.of(source, patterns, columns)
    return path if hub_copy is None or path.exists() else hub_copy


def require_regular(reader: Reader) -> None:
    """Raise UserError if a file that a reader reads is neither regular nor a folder: a pipe would be waited for."""
    for path in {path for subset in reader.subsets for path in reader.files(subset)}:
        if not path.is_dir():
            open_regular(path).close()
