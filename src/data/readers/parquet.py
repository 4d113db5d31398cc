"""Datasets as the Hub serves them: parquet files, one or more a subset, with a column of encoded images and one of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from src.data.images import read_rgb_or_grey
from src.data.readers.errors import image_errors
from src.data.readers.parquet_columns import Columns, find_columns, read_class_names, read_values
from src.data.readers.row_groups import Column
from src.data.readers.subset_files import SubsetFiles
from src.errors import UserError, shorten


@dataclass(frozen=True)
class Parquet(SubsetFiles):
    """Reader of images in parquet files. Of `columns` it looks for `image` and `label`."""

    kind: ClassVar[str] = "Parquet"

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
