"""Sets as the Hub serves them: parquet files, one or more a part, with a column of encoded images and one of labels."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from src.data.columns import class_names, columns_of
from src.data.names import few
from src.data.task import Examples
from src.errors import UserError

PART_OF = {word: part for part, spelled in {"train": ("train", "training"), "test": ("test", "testing"),
           "val": ("val", "valid", "validation", "dev")}.items() for word in spelled}  # fmt: skip


@dataclass(frozen=True)
class Parquet:
    """The parquet files below `root` that match one of `patterns`; names or folders say of which part a file is.

    A set without a test part has its validation part for one. cache: the folder for the decompressed copy that
    allows random access; record: a file that is there once a download is complete, if the files are a download;
    columns: what the columns `image` and `label` are called, where that is not clear.
    """

    root: Path
    cache: Path
    patterns: Sequence[str] = ("*",)
    record: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in sorted(self.root.rglob("*.parquet")):
            inner = path.relative_to(self.root)
            part = _part_of(inner)
            if part and any(fnmatch(inner.as_posix(), pattern) for pattern in self.patterns):
                found.setdefault(part, []).append(path)
        if "test" not in found and "val" in found:
            found["test"] = found.pop("val")
        return found

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self._files)

    def lacks(self) -> list[str]:
        if self.record and not self.record.exists():
            return ["a complete download"]
        absent = [f"{part}*.parquet" for part in ("train", "test") if part not in self._files]
        folders = {_configuration(path.relative_to(self.root)) for path in self._files.get("train", [])}
        return absent + ([f"one folder of train files (it has {few(sorted(folders))}; say patterns=[FOLDER/*])"]
                         if len(folders) > 1 else [])  # fmt: skip

    def sources(self, part: str) -> list[Path]:
        return self._files[part]

    def names(self) -> list[str] | None:
        return class_names(self._files["train"], self.columns)

    def load(self, part: str) -> Examples:
        import datasets

        columns = columns_of(self._files[part][0], self.columns)
        paths, wanted = [str(path) for path in self._files[part]], [columns.image, columns.label]
        table = datasets.Dataset.from_parquet(paths, columns=wanted, cache_dir=str(self.cache), keep_in_memory=False)
        if isinstance(table.features[columns.image], datasets.Image):
            table = table.cast_column(columns.image, datasets.Image(decode=False))
        labels = table.data.column(columns.label).to_pylist()
        if columns.spelled:
            known = {name: label for label, name in enumerate(self.names() or ())}
            labels = [known[name] for name in labels]
        elif columns.names != self.names():
            raise UserError(f"the classes of {paths[0]} are not those of the training part")
        labels = np.array([-1 if label is None else int(label) for label in labels])
        if labels.size and labels.min() < 0:
            raise UserError(f"{paths[0]} has examples without a label; use files whose {part} part is labelled")
        return Rows(table, columns.image, labels)


class Rows(Dataset):
    """Rows of a table of encoded images, decoded one by one."""

    def __init__(self, table, column: str, labels: np.ndarray):
        self._table, self._column, self.labels = table, column, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        found = self._table[int(index)][self._column]
        encoded = found["bytes"] if isinstance(found, dict) else found
        with Image.open(BytesIO(encoded)) as image:
            return image.convert("L" if image.mode == "L" else "RGB"), int(self.labels[index])


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
