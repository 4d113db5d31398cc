"""Sets as the Hub serves them: parquet files, one or more a part, with a column of encoded images and one of labels."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from src.data.readers.errors import UNREADABLE, bad_image
from src.data.readers.parquet_columns import Columns, class_names, columns_of, values
from src.data.readers.row_groups import Column
from src.errors import UserError, shorten

PART_OF = {word: subset for subset, spelled in {"train": ("train", "training"), "test": ("test", "testing"),
           "val": ("val", "valid", "validation", "dev")}.items() for word in spelled}  # fmt: skip


@dataclass(frozen=True)
class Parquet:
    """The parquet files below `root` that match one of `patterns`; names or folders say of which part a file is.

    A set without a test part has its validation part for one. columns: what the columns `image` and `label` are
    called, where that is not clear; absent: says what is still to come of the files, if they are a download; task: whose
    examples they are, for sentences.
    """

    kind: ClassVar[str] = "Parquet"

    task: str
    root: Path
    patterns: Sequence[str] = ("*",)
    columns: Mapping[str, str] = field(default_factory=dict)
    absent: Callable[[], list[str]] = list

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in sorted(self.root.rglob("*.parquet")):
            inner = path.relative_to(self.root)
            subset = _part_of(inner)
            if subset and any(fnmatch(inner.as_posix(), pattern) for pattern in self.patterns):
                found.setdefault(subset, []).append(path)
        if "test" not in found and "val" in found:
            found["test"] = found.pop("val")
        return found

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(self._files)

    def missing_files(self) -> list[str]:
        lacking = [f"{subset}*.parquet" for subset in ("train", "test") if subset not in self._files] + self.absent()
        folders = sorted({_configuration(path.relative_to(self.root)) for path in self._files.get("train", [])})
        if len(folders) > 1:
            remedy = f"say 'tasks.{self.task}.patterns=[FOLDER/*]'"
            lacking.append(f"one folder of train files (it has {shorten(folders)}; {remedy})")
        return lacking

    def _columns(self, subset: str) -> Columns:
        return columns_of(self._files[subset][0], self.columns, self.task)

    def files(self, subset: str) -> list[Path]:
        return self._files[subset]

    def names(self) -> list[str] | None:
        return class_names(self._files["train"], self._columns("train"))

    def load(self, subset: str) -> "Rows":
        files = self._files[subset]
        columns = self._columns(subset)
        labels = values(files, columns.label)
        if columns.spelled:
            known = {name: label for label, name in enumerate(self.names() or ())}
            strange = sorted({name for name in labels if name is not None and name not in known})
            if strange:
                raise UserError(
                    f"the {subset} part at {self.root} has classes that the training part has not ({shorten(strange)}); "
                    f"give both parts the same classes"
                )
            labels = [known.get(name) for name in labels]
        elif columns.names != self.names():
            raise UserError(f"the classes of {files[0]} are not those of the training part; give both parts the same classes")
        labels = np.array([-1 if label is None else int(label) for label in labels], int)
        if labels.size and labels.min() < 0:
            raise UserError(f"{files[0]} has examples without a label; use files whose {subset} part is labelled")
        return Rows(Column(files, columns.image), labels, np.arange(len(labels)))

    def file_names(self, subset: str) -> list[str] | None:
        """What each image's file was called before it was put into parquet; None if that is not known."""
        files = self._files[subset]
        columns = self._columns(subset)
        names = values(files, f"{columns.image}.path") if columns.paths else [None]
        return None if None in names else [PurePosixPath(name).name for name in names]


class Rows(Dataset):
    """Encoded images with the labels of their rows, decoded one by one; `order` has the row of each example."""

    def __init__(self, images: Column, labels: np.ndarray, order: np.ndarray):
        self._images, self.labels, self._order = images, labels, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self._order[index]
        try:
            found = self._images[row]
            with Image.open(BytesIO(found["bytes"] if isinstance(found, dict) else found)) as image:
                return image.convert("L" if image.mode == "L" else "RGB"), int(self.labels[row])
        except UNREADABLE as reason:
            raise bad_image(f"in {self._images.place(row)}", reason) from reason

    def sorted_by(self, labels: Sequence[int] | None, names: Sequence[str]) -> "Rows":
        """By label (`labels[label]`, where given), then by name, as ImageFolder has it."""
        by_label = self.labels if labels is None else np.asarray(labels)[self.labels]
        return Rows(self._images, self.labels, np.array(sorted(self._order, key=lambda row: (by_label[row], names[row])), int))


def _part_of(path: Path) -> str | None:
    """`data/train-00000-of-00002.parquet`, `default/test/0000.parquet`: the name says it, else the nearest folder."""
    for name in reversed(path.parts):
        for word in re.split("[^a-z]+", name.removesuffix(".parquet").lower()):
            if word in PART_OF:
                return PART_OF[word]
    return None


def _configuration(path: Path) -> str:
    """The folder of a file, without one that only says the part."""
    return "/".join(name for name in path.parts[:-1] if name.lower() not in PART_OF) or "."
