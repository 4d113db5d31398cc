"""Where a dataset of images lies: in the papers' layout, in a user's folder, or as parquet files from the Hub."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from src.data.hub_copy import HubCopy
from src.data.location import Download, Location, folder_or_copy
from src.data.readers.image_folders import own_folders
from src.data.readers.parquet import Parquet
from src.data.readers.protocol import ExampleReader
from src.data.readers.torchvision import Torchvision
from src.data.vision.spec import DatasetSpec
from src.data.vision.torchvision_download import download_by_torchvision
from src.runtime.progress import Progress

FOLDERS = "images in train/<class>/ and test/<class>/, or train*.parquet and test*.parquet"


def locate(
    spec: DatasetSpec,
    data: Path,
    source: str | None = None,
    patterns: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Location[ExampleReader]:
    """Return the location of a dataset.

    data: the folder that datasets lie below.
    source: a folder of the user's own or a Hub id, instead.
    patterns: of parquet files, which files.
    columns: of parquet files, what the columns `image` and `label` are called.
    """
    place = folder_or_copy(source, patterns, columns)
    if isinstance(place, Path):
        native = f", or {spec.layout}" if spec.layout else ""
        remedy = f"put {FOLDERS}{native} in {place}"
        return Location(spec.name, lambda: _in_folder(spec, place, patterns, columns), (), remedy)
    if place is not None:
        remedy = f"give a folder, or a dataset on the Hub with parquet files for train and test, as tasks.{spec.name}.source"
        return Location(spec.name, lambda: _in_copies([place], spec, data), _hub_downloads([place], spec, data), remedy)
    copies = [spec.hub_copy] if spec.hub_copy else []
    put = f"put it below {data} as {spec.layout}, or give" if spec.layout else "give"
    return Location(
        spec.name,
        lambda: [*_native_readers(spec, data / spec.home), *_in_copies(copies, spec, data)],
        [*_torchvision_downloads(spec, data), *_hub_downloads(copies, spec, data)],
        f"{put} tasks.{spec.name}.source=FOLDER ({FOLDERS})",
    )


def _native_readers(spec: DatasetSpec, root: Path) -> list[ExampleReader]:
    """Return readers of the papers' layouts below `root`."""
    return [make(root) for make in spec.readers]


def _in_folder(
    spec: DatasetSpec, folder: Path, patterns: Sequence[str] | None, columns: Mapping[str, str] | None
) -> list[ExampleReader]:
    """Return readers of a user's folder, best first."""
    native = [reader for root in dict.fromkeys((folder / spec.home, folder)) for reader in _native_readers(spec, root)]
    native += [reader for reader in _native_readers(spec, folder.parent) if _reads_only(folder, reader)]
    own = own_folders(folder)
    if any("test" in reader.folders.values() for reader in own):  # a user's own split, whatever else the folder holds
        native, own = [], [*own, *native]
    return [*native, *own, Parquet(spec.name, folder, patterns or ("*",), columns or {})]


def _in_copies(copies: Sequence[HubCopy], spec: DatasetSpec, data: Path) -> list[ExampleReader]:
    return [copy.reader(Parquet, spec.name, data) for copy in copies]


def _hub_downloads(copies: Sequence[HubCopy], spec: DatasetSpec, data: Path) -> list[Download]:
    return [partial(copy.fetch, data, spec.name) for copy in copies]


def _torchvision_downloads(spec: DatasetSpec, data: Path) -> list[Download]:
    """Return the download by the first reader that can, as a list of one; [] if none can."""
    readers = [reader for reader in _native_readers(spec, data / spec.home) if isinstance(reader, Torchvision)]
    return [partial(_by_torchvision, spec.name, reader, data) for reader in readers if reader.can_download][:1]


def _by_torchvision(name: str, reader: Torchvision, data: Path, progress: Progress) -> None:
    progress.report(f"{name} by torchvision", 0)  # which draws bars of its own
    download_by_torchvision(name, reader, data)


def _reads_only(folder: Path, reader: ExampleReader) -> bool:
    """Whether all that a reader of the parent folder needs is in `folder`: the user named the innermost one of a layout."""
    return all(file.is_relative_to(folder) for subset in reader.subsets for file in reader.files(subset))
