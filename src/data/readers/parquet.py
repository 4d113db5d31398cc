"""Datasets as the Hub serves them: parquet files, one or more a subset, with a column of encoded images and one of labels."""

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

from src.data.images import read_rgb_or_grey
from src.data.readers.errors import image_errors
from src.data.readers.parquet_columns import Columns, find_columns, read_class_names, read_values
from src.data.readers.row_groups import Column
from src.errors import UserError, shorten

SUBSET_OF = {word: subset for subset, words in {"train": ("train", "training"), "test": ("test", "testing"),
             "val": ("val", "valid", "validation", "dev")}.items() for word in words}  # fmt: skip


@dataclass(frozen=True)
class Parquet:
    """Reader of the parquet files below `root` that match one of `patterns`; names or folders say of which subset each is.

    Where no file is of test, those of val are.

    task: whose examples they are, for sentences.
    columns: what the columns `image` and `label` are called, where that is not clear.
    pending_files: returns the files that are still to come, if these are a download.
    """

    kind: ClassVar[str] = "Parquet"

    task: str
    root: Path
    patterns: Sequence[str] = ("*",)
    columns: Mapping[str, str] = field(default_factory=dict)
    pending_files: Callable[[], list[str]] = list

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(self._files)

    def missing_files(self) -> list[str]:
        missing = [f"{subset}*.parquet" for subset in ("train", "test") if subset not in self._files] + self.pending_files()
        folders = sorted({_configuration(path.relative_to(self.root)) for path in self._files.get("train", [])})
        if len(folders) > 1:
            remedy = f"say 'tasks.{self.task}.patterns=[FOLDER/*]'"
            missing.append(f"one folder of train files (it has {shorten(folders)}; {remedy})")
        return missing

    def files(self, subset: str) -> list[Path]:
        return self._files[subset]

    def class_names(self) -> list[str] | None:
        return read_class_names(self._files["train"], self._columns("train"))

    def load(self, subset: str) -> "ParquetExamples":
        files = self._files[subset]
        columns = self._columns(subset)
        labels = read_values(files, columns.label)
        if columns.has_spelled_labels:
            label_of = {name: label for label, name in enumerate(self.class_names() or ())}
            unknown = sorted({name for name in labels if name is not None and name not in label_of})
            if unknown:
                raise UserError(
                    f"the {subset} subset at {self.root} has classes that the training subset has not ({shorten(unknown)}); "
                    f"give both subsets the same classes"
                )
            labels = [label_of.get(name) for name in labels]
        elif columns.class_names != self.class_names():
            raise UserError(f"the classes of {files[0]} are not those of the training subset; give both the same classes")
        labels = np.array([-1 if label is None else int(label) for label in labels], int)
        if labels.size and labels.min() < 0:
            raise UserError(f"{files[0]} has examples without a label; use files whose {subset} subset is labelled")
        return ParquetExamples(Column(files, columns.image), labels, np.arange(len(labels)))

    def file_names(self, subset: str) -> list[str] | None:
        """Return what each image's file was called before it was put into parquet; None if that is not known."""
        files = self._files[subset]
        columns = self._columns(subset)
        paths = read_values(files, f"{columns.image}.path") if columns.has_paths else [None]
        return None if None in paths else [PurePosixPath(path).name for path in paths]

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        for path in sorted(self.root.rglob("*.parquet")):
            inner = path.relative_to(self.root)
            subset = _subset_of(inner)
            if subset and any(fnmatch(inner.as_posix(), pattern) for pattern in self.patterns):
                files.setdefault(subset, []).append(path)
        if "test" not in files and "val" in files:
            files["test"] = files.pop("val")
        return files

    def _columns(self, subset: str) -> Columns:
        return find_columns(self._files[subset][0], self.columns, self.task)


class ParquetExamples(Dataset):
    """Encoded images with labels, decoded one by one.

    labels: of each row, (rows,).
    order: the row of each example, (n,).
    """

    def __init__(self, images: Column, labels: np.ndarray, order: np.ndarray):
        self._images, self.labels, self._order = images, labels, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self._order[index]
        name = f"in {self._images.describe(row)}"
        with image_errors(name):
            value = self._images[row]
            content = BytesIO(value["bytes"] if isinstance(value, dict) else value)
            return read_rgb_or_grey(content, name), int(self.labels[row])

    def sorted_by(self, labels: Sequence[int] | None, names: Sequence[str]) -> "ParquetExamples":
        """Return the examples by label, then by name, as ImageFolder has them.

        labels: the label to sort each label as; None for itself.
        names: of each row.
        """
        by_label = self.labels if labels is None else np.asarray(labels)[self.labels]
        order = np.array(sorted(self._order, key=lambda row: (by_label[row], names[row])), int)
        return ParquetExamples(self._images, self.labels, order)


def _subset_of(path: Path) -> str | None:
    """Return the subset that a file's name says, else that of the nearest folder whose name says one.

    `data/train-00000-of-00002.parquet` and `default/train/0000.parquet` are of train.
    """
    for name in reversed(path.parts):
        for word in re.split("[^a-z]+", name.removesuffix(".parquet").lower()):
            if word in SUBSET_OF:
                return SUBSET_OF[word]
    return None


def _configuration(path: Path) -> str:
    """Return the folder of a file, without those that only say the subset."""
    return "/".join(name for name in path.parts[:-1] if name.lower() not in SUBSET_OF) or "."
