"""Image files in folders, one a class: most sets are kept so, and a user's own can be."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from PIL import Image
from torch.utils.data import Dataset

from src.data.class_names import difference
from src.data.readers.errors import UNREADABLE, bad_image
from src.data.task import Examples
from src.errors import UserError, shorten


class ImageFiles(Dataset):
    """Image files with labels, opened one by one."""

    def __init__(self, samples: Sequence[tuple[str, int]]):
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self._samples[index]
        try:
            with Image.open(path) as image:
                return image.convert("RGB"), label
        except UNREADABLE as reason:
            raise bad_image(path, reason) from reason


def class_folders(folder: Path) -> list[str]:
    """The classes of a folder, sorted as ImageFolder sorts them; hidden folders are none."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def image_files(folder: Path, names: Sequence[str], wanted: Callable[[str], bool] | None = None) -> ImageFiles:
    """The images below the class folders `names`, in ImageFolder's order; all, or those `wanted`."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    found = class_folders(folder)
    if found != list(names):
        raise UserError(f"{folder} has other classes than the training part ({difference(found, [(name,) for name in names])})")
    labels = {name: label for label, name in enumerate(names)}
    extensions = IMG_EXTENSIONS if wanted is None else None
    return ImageFiles(make_dataset(folder, labels, extensions=extensions, is_valid_file=wanted, allow_empty=wanted is not None))


@dataclass(frozen=True)
class ImageFolders:
    """`folders` has the folder of each part, below `root`."""

    kind: ClassVar[str] = "ImageFolders"

    root: Path
    folders: Mapping[str, str]

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(self.folders)

    def missing_files(self) -> list[str]:
        return [f"{folder}/<class>/" for folder in self.folders.values() if not _holds_classes(self.root / folder)]

    def files(self, subset: str) -> list[Path]:
        return [self.root / self.folders[subset]]

    @cached_property
    def _names(self) -> list[str]:
        return class_folders(self.root / self.folders["train"])

    def names(self) -> list[str]:
        return self._names

    def load(self, subset: str) -> Examples:
        return image_files(self.root / self.folders[subset], self._names)


@dataclass(frozen=True)
class ListedImages:
    """One folder of class folders for all parts, and for each the lists of its file names (RESISC45, DTD)."""

    kind: ClassVar[str] = "ListedImages"

    root: Path
    folder: str
    lists: Mapping[str, Sequence[str]]

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(self.lists)

    def missing_files(self) -> list[str]:
        absent = [name for names in self.lists.values() for name in names if not (self.root / name).is_file()]
        return absent if _holds_classes(self.root / self.folder) else [f"{self.folder}/<class>/", *absent]

    def files(self, subset: str) -> list[Path]:
        return [self.root / self.folder, *(self.root / name for name in self.lists[subset])]

    def names(self) -> list[str]:
        return class_folders(self.root / self.folder)

    def load(self, subset: str) -> Examples:
        lists = [self.root / name for name in self.lists[subset]]
        named = {os.path.basename(line) for path in lists for line in path.read_text().split()}
        found: set[str] = set()

        def wanted(path: str) -> bool:
            name = os.path.basename(path)
            if name in named:
                found.add(name)
            return name in named

        examples = image_files(self.root / self.folder, self.names(), wanted)
        absent = sorted(named - found)
        if absent:
            raise UserError(
                f"{len(absent):,} of the {len(named):,} images in {', '.join(map(str, lists))} are not below "
                f"{self.root / self.folder} ({shorten(absent, 2)}); unpack its archive again"
            )
        return examples


def own_folders(root: Path) -> list[ImageFolders]:
    """train/ with test/ and perhaps val/, or with val/ for the test images."""
    held = [subset for subset in ("train", "val", "test") if _holds_classes(root / subset)]
    if "train" in held and "test" in held:
        return [ImageFolders(root, {subset: subset for subset in held})]
    return [ImageFolders(root, {"train": "train", "test": "val"})] if held == ["train", "val"] else []


def _holds_classes(folder: Path) -> bool:
    return folder.is_dir() and bool(class_folders(folder))
