"""Files of which each has examples of one subset, as the names of files and folders say."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from src.errors import shorten

SUBSET_OF = {word: subset for subset, words in {"train": ("train", "training"), "test": ("test", "testing"),
             "val": ("val", "valid", "validation", "dev")}.items() for word in words}  # fmt: skip


@dataclass(frozen=True)
class SubsetFiles:
    """The files below `root` that match one of `patterns`; names or folders say of which subset each is.

    Where no file is of test, those of val are.

    endings: of their names; the first is the one to name where files are missing.
    task: whose examples they are, for sentences.
    columns: what columns are called, by the name that is looked for.
    pending_files: returns the files that are still to come, if these are a download.
    """

    endings: ClassVar[Sequence[str]] = (".parquet",)

    task: str
    root: Path
    patterns: Sequence[str] = ("*",)
    columns: Mapping[str, str] = field(default_factory=dict)
    pending_files: Callable[[], list[str]] = list

    @property
    def subsets(self) -> tuple[str, ...]:
        return tuple(self._files)

    def missing_files(self) -> list[str]:
        absent = [word for subset, word in self._words.items() if subset not in self._files]
        missing = [f"{word}*{self.endings[0]}" for word in absent] + self.pending_files()
        folders = sorted({_configuration(path.relative_to(self.root)) for path in self._files.get("train", [])})
        if len(folders) > 1:
            remedy = f"say 'tasks.{self.task}.patterns=[FOLDER/*]'"
            missing.append(f"one folder of train files (it has {shorten(folders)}; {remedy})")
        return missing

    def files(self, subset: str) -> list[Path]:
        return self._files[subset]

    @property
    def _words(self) -> Mapping[str, str]:
        """What the files of each subset that is needed are called."""
        return {"train": "train", "test": "test"}

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        files = self._files_as_called()
        if "test" not in files and "val" in files:
            files["test"] = files.pop("val")
        return files

    def _files_as_called(self) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        for path in sorted(path for ending in self.endings for path in self.root.rglob(f"*{ending}")):
            inner = path.relative_to(self.root)
            subset = _subset_of(inner)
            if subset and any(fnmatch(inner.as_posix(), pattern) for pattern in self.patterns):
                files.setdefault(subset, []).append(path)
        return files


def _subset_of(path: Path) -> str | None:
    """Return the subset that a file's name says, else that of the nearest folder whose name says one.

    `data/train-00000-of-00002.parquet` and `default/train/0000.parquet` are of train.
    """
    for name in (path.stem, *reversed(path.parts[:-1])):
        for word in re.split("[^a-z]+", name.lower()):
            if word in SUBSET_OF:
                return SUBSET_OF[word]
    return None


def _configuration(path: Path) -> str:
    """Return the folder of a file, without those that only say the subset."""
    return "/".join(name for name in path.parts[:-1] if name.lower() not in SUBSET_OF) or "."
