"""Sets in the formats that torchvision reads, and downloads."""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from src.data.task import Examples

BY_TRAIN = {"train": {"train": True}, "test": {"train": False}}
BY_SPLIT = {"train": {"split": "train"}, "test": {"split": "test"}}


@dataclass(frozen=True)
class Torchvision:
    """What `torchvision.datasets.<reader>` finds below `root`.

    needs: the files and folders that a part is read from; arguments: what asks the reader for a part;
    named: its class names are those of the data on disk; downloads: it can fetch the data.
    """

    root: Path
    reader: str
    needs: Mapping[str, Sequence[str]]
    arguments: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: BY_SPLIT)
    named: bool = False
    downloads: bool = True

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.arguments)

    def lacks(self) -> list[str]:
        needed = dict.fromkeys(name for names in self.needs.values() for name in names)
        return [name for name in needed if not (self.root / name).exists()]

    def sources(self, part: str) -> list[Path]:
        return [self.root / name for name in self.needs[part]]

    def names(self) -> Sequence[str] | None:
        return list(self._read("test").classes) if self.named else None

    def load(self, part: str) -> Examples:
        return self._read(part)

    def download(self) -> None:
        for part in self.parts:
            self._read(part, download=True)

    def _read(self, part: str, **options: object):
        import torchvision.datasets

        return getattr(torchvision.datasets, self.reader)(str(self.root), **self.arguments[part], **options)


@dataclass(frozen=True)
class PatchCamelyon(Torchvision):
    """PCAM: torchvision's reader opens two archives for every image; this one keeps the labels, and a file open."""

    def load(self, part: str) -> Examples:
        images, labels = self.sources(part)
        return Patches(images, labels)


class Patches(Dataset):
    """The images of one HDF5 file with the labels of another."""

    def __init__(self, images: Path, labels: Path):
        import h5py

        self._path, self._lock, self._opened = images, threading.Lock(), (0, None)
        with h5py.File(labels) as file:
            self._labels = np.asarray(file["y"]).reshape(-1)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        with self._lock:
            pixels = self._open()["x"][index]
        return Image.fromarray(pixels), int(self._labels[index])

    def __getstate__(self) -> dict:
        return {**vars(self), "_lock": None, "_opened": (0, None)}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def _open(self):
        process, file = self._opened
        if process != os.getpid():  # a handle is of no use in a forked process
            import h5py

            file = h5py.File(self._path)
            self._opened = os.getpid(), file
        return file
