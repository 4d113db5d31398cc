"""Datasets in the formats that torchvision reads, and downloads."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from src.data.images import ImageFiles
from src.data.readers.errors import NamedErrors
from src.data.readers.process_local import ProcessLocal
from src.data.readers.protocol import require_listed
from src.data.task import Examples
from src.errors import UserError

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

        return getattr(torchvision.datasets, self.dataset_class)(str(self.root), **self.arguments[subset], **options)


@dataclass(frozen=True)
class Stl10(Torchvision):
    """Reader of STL10: torchvision's wants the unlabelled images too, and reads all their 3 GB for a checksum."""

    kind: ClassVar[str] = "Stl10"

    def load(self, subset: str) -> Examples:
        images, labels = self.files(subset)
        return NamedErrors(Stl10Images(images, np.fromfile(labels, np.uint8).astype(int) - 1), self.root)


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
            self._labels = np.asarray(file["y"]).reshape(-1)
        self._lock_and_file = ProcessLocal(partial(_open_with_lock, images))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        lock, file = self._lock_and_file()
        with lock:
            pixels = file["x"][index]
        return Image.fromarray(pixels), int(self._labels[index])


def _open_with_lock(path: Path):
    """Return the lock under which to read a file, and the file, opened."""
    import h5py

    return threading.Lock(), h5py.File(path)
