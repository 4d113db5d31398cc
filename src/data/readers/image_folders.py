"""Image files in folders, one a class: most datasets lie so, and a user's own can."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from src.data.class_names import difference, require_text
from src.data.images import ImageFiles
from src.data.task import Examples
from src.errors import UserError, shorten
from src.runtime.untrusted import read_text


@dataclass(frozen=True)
class ImageFolders:
    """Reader of subsets that have a folder each, which holds the class folders.

    root: the folder that holds these.
    folders: the folder of each subset, below `root`.
    """

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

    def class_names(self) -> list[str]:
        return self._class_names

    def load(self, subset: str) -> Examples:
        return image_files(self.root / self.folders[subset], self._class_names)

    @cached_property
    def _class_names(self) -> list[str]:
        return class_folders(self.root / self.folders["train"])


@dataclass(frozen=True)
class ListedImages:
    """Reader of one folder of class folders that all subsets share, and lists of the images of each (RESISC45, DTD).

    folder: the folder of class folders, below `root`.
    lists: by subset, the files that list the names of its images, below `root`.
    """

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

    def class_names(self) -> list[str]:
        return class_folders(self.root / self.folder)

    def load(self, subset: str) -> Examples:
        lists = [self.root / name for name in self.lists[subset]]
        expected = {os.path.basename(line) for path in lists for line in read_text(path).split()}
        present: set[str] = set()

        def is_listed(path: str) -> bool:
            name = os.path.basename(path)
            if name in expected:
                present.add(name)
            return name in expected

        examples = image_files(self.root / self.folder, self.class_names(), is_listed)
        absent = sorted(expected - present)
        if absent:
            raise UserError(
                f"{len(absent):,} of the {len(expected):,} images in {', '.join(map(str, lists))} are not below "
                f"{self.root / self.folder} ({shorten(absent, 2)}); unpack its archive again"
            )
        return examples


def own_folders(root: Path) -> list[ImageFolders]:
    """Return the reader of a user's own folders as a list of one; [] if `root` holds none.

    They are train/ with test/ and perhaps val/, or train/ with val/, which has the test images then.
    """
    subsets = [subset for subset in ("train", "val", "test") if _holds_classes(root / subset)]
    if "train" in subsets and "test" in subsets:
        return [ImageFolders(root, {subset: subset for subset in subsets})]
    return [ImageFolders(root, {"train": "train", "test": "val"})] if subsets == ["train", "val"] else []


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in a folder, sorted as ImageFolder sorts them; hidden folders are none.

    Raise UserError if a name is no text.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    require_text(names, folder)
    return names


def image_files(folder: Path, class_names: Sequence[str], is_wanted: Callable[[str], bool] | None = None) -> ImageFiles:
    """Return the images below the class folders of a folder, in ImageFolder's order, labelled by the order of `class_names`.

    is_wanted: whether to take a file; by default all that end as images do.

    Raise UserError if the folder has other classes.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    names = class_folders(folder)
    if names != list(class_names):
        raise UserError(
            f"{folder} has other classes than the training subset ({difference(names, [(name,) for name in class_names])})"
        )
    labels = {name: label for label, name in enumerate(class_names)}
    extensions = IMG_EXTENSIONS if is_wanted is None else None
    samples = make_dataset(folder, labels, extensions=extensions, is_valid_file=is_wanted, allow_empty=is_wanted is not None)
    return ImageFiles(samples)


def _holds_classes(folder: Path) -> bool:
    return folder.is_dir() and bool(class_folders(folder))
