"""Datasets in the formats that torchvision reads, and downloads."""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from src.data.images import ImageFiles
from src.data.readers.errors import NamedErrors
from src.data.readers.process_local import ProcessLocal
from src.data.readers.protocol import require_listed
from src.data.task import Examples
from src.errors import UserError
from src.runtime.untrusted import read_bytes

if TYPE_CHECKING:  # imported where it is used: only one dataset needs it
    import h5py

LARGEST_WHOLE = 2**28  # bytes of a file that torchvision reads whole: the largest, of EMNIST's digits, has 188 MB
MOST_ITEMS, LARGEST_CHUNK = 2**20, 2**28  # of an HDF5 array: four times PCAM's training images; bytes
BY_TRAIN = {"train": {"train": True}, "test": {"train": False}}
BY_SPLIT = {"train": {"split": "train"}, "test": {"split": "test"}}


@dataclass(frozen=True)
class Torchvision:
    """Reader of what `torchvision.datasets.<dataset_class>` finds below `root`.

    paths: by subset, the files and folders that it is read from, below `root`.
    arguments: by subset, the arguments that select it.
    has_class_names: whether its class names are those of the data on disk.
    can_download: whether it can fetch the data.
    samples_attribute: its attribute that lists the image files, with their labels or in the order of `_labels`, where it
        reads such a list: these images are opened as all others are.
    """

    kind: ClassVar[str] = "Torchvision"

    root: Path
    dataset_class: str
    paths: Mapping[str, Sequence[str]]
    arguments: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: BY_SPLIT)
    has_class_names: bool = False
    can_download: bool = True
    samples_attribute: str | None = None

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(self.arguments)

    def missing_files(self) -> list[str]:
        paths = dict.fromkeys(path for paths in self.paths.values() for path in paths)
        return [path for path in paths if not (self.root / path).exists()]

    def files(self, subset: str) -> list[Path]:
        return [self.root / path for path in self.paths[subset]]

    def class_names(self) -> Sequence[str] | None:
        return list(self._read("test").classes) if self.has_class_names else None

    def load(self, subset: str) -> Examples:
        examples = self._read(subset)
        if not self.samples_attribute:
            return NamedErrors(examples, self.root)
        samples = getattr(examples, self.samples_attribute)
        pairs = samples if samples and isinstance(samples[0], tuple) else zip(samples, examples._labels)
        samples = [(str(path), int(label)) for path, label in pairs]
        require_listed(f"the {subset} subset at {self.root}", [path for path, _ in samples])
        return ImageFiles(samples)

    def download(self) -> None:
        """Download all subsets, and unpack them."""
        for subset in self.subsets:
            self._read(subset, download=True)

    def _read(self, subset: str, **options: object):
        import torchvision.datasets

        for path in self.files(subset):
            if path.is_file() and path.stat().st_size > LARGEST_WHOLE:
                raise UserError(f"{path} has {path.stat().st_size:,} bytes, more than any such file of the dataset; get it again")
        return getattr(torchvision.datasets, self.dataset_class)(str(self.root), **self.arguments[subset], **options)


@dataclass(frozen=True)
class Stl10(Torchvision):
    """Reader of STL10: torchvision's wants the unlabelled images too, and reads all their 3 GB for a checksum."""

    kind: ClassVar[str] = "Stl10"

    def load(self, subset: str) -> Examples:
        images, labels = self.files(subset)
        return NamedErrors(Stl10Images(images, np.frombuffer(read_bytes(labels), np.uint8).astype(int) - 1), self.root)


class Stl10Images(Dataset):
    """One file of (3, 96, 96) images, column by column."""

    SHAPE = (3, 96, 96)

    def __init__(self, images: Path, labels: np.ndarray):
        self._path, self._labels, self._size = images, labels, int(np.prod(self.SHAPE))
        if images.stat().st_size != len(labels) * self._size:
            raise UserError(f"{images} has not the {len(labels):,} images that its labels are for; unpack its archive again")

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        label = int(self._labels[index])
        pixels = np.fromfile(self._path, np.uint8, self._size, offset=index * self._size)
        return Image.fromarray(np.ascontiguousarray(pixels.reshape(self.SHAPE).transpose(2, 1, 0))), label


@dataclass(frozen=True)
class PatchCamelyon(Torchvision):
    """Reader of PCAM: torchvision's opens two archives for every image; this one keeps the labels, and a file open."""

    kind: ClassVar[str] = "PatchCamelyon"

    def load(self, subset: str) -> Examples:
        images, labels = self.files(subset)
        return NamedErrors(PcamImages(images, labels), self.root)


class PcamImages(Dataset):
    """The images of one HDF5 file with the labels of another."""

    def __init__(self, images: Path, labels: Path):
        import h5py

        with h5py.File(labels) as file:
            self._labels = np.asarray(_stored(file, "y", (1, 1, 1))).reshape(-1)
        with h5py.File(images) as file:
            count = len(_stored(file, "x", (96, 96, 3)))
        if count != len(self._labels):
            raise UserError(f"{images} has {count:,} images and {labels} {len(self._labels):,} labels; get both again")
        self._lock_and_file = ProcessLocal(partial(_open_with_lock, images))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        lock, file = self._lock_and_file()
        with lock:
            pixels = file["x"][index]
        return Image.fromarray(pixels), int(self._labels[index])


def _stored(file: "h5py.File", name: str, shape: tuple[int, ...]) -> "h5py.Dataset":
    """Return an array of bytes in an HDF5 file, whose items have this shape.

    Raise UserError unless all of it lies in the file itself, in chunks that memory holds, and it claims to have no more
    items than `MOST_ITEMS`.
    """
    import h5py

    where = f"{name} in {file.filename}"
    array = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(array, h5py.Dataset) or array.external or array.is_virtual:
        raise UserError(f"there is no array {where}, or it lies in other files; get it again")
    chunk = math.prod(array.chunks or ())
    if array.shape[1:] != shape or array.dtype != np.uint8 or len(array) > MOST_ITEMS or chunk > LARGEST_CHUNK:
        raise UserError(f"{where} claims to be {array.dtype} of shape {array.shape}, which no file of PCAM has; get it again")
    return array


def _open_with_lock(path: Path):
    """Return the lock under which to read a file, and the file, opened."""
    import h5py

    return threading.Lock(), h5py.File(path)
