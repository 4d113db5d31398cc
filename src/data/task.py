"""Tasks: a name, classes and prompts, and examples by split."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import xxhash
from PIL.Image import Image
from torch import Generator
from torch.utils.data import Dataset, Subset

from src.errors import UserError
from src.runtime.progress import SILENT, Progress

Examples = Dataset[tuple[Image, int]]
ClassName = str | tuple[str, ...]  # one name, or synonyms

SPLITS = ("train", "val", "test")
VALIDATION_SHARE, VALIDATION_MOST, SEED = 0.1, 5000, 0


class ExampleSource(Protocol):
    """Where a task's examples come from.

    A source keeps subsets, as they lie on disk; a task makes its splits of these.

    kind: part of every task's digest, so it is a literal that outlives the names of classes.
    """

    kind: str

    @property
    def classes(self) -> Sequence[ClassName]:
        """Class names in label order."""

    @property
    def subsets(self) -> Sequence[str]:
        """`train` and `test`, and `val` where there is validation data of its own."""

    def load(self, subset: str) -> Examples:
        """Return all examples of a subset, as a map-style dataset that several threads may index at once."""

    def fingerprint(self, subset: str) -> str:
        """Return what changes whenever the examples of the subset might have changed; no image is decoded for it."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences on how the examples differ from the papers'."""

    def problems(self, was_fetched: bool = False) -> list[str]:
        """Return what is missing, as `Task.problems` does."""

    @property
    def is_fetchable(self) -> bool:
        """Whether the data can be downloaded."""

    def fetch(self, progress: Progress = SILENT) -> None:
        """Download the data, as `Task.fetch` does."""


@dataclass(frozen=True, eq=False)
class Task:
    """An image classification task.

    Making one touches no data: its source is asked when examples or class names are read.

    templates: prompts with a `{}` for the class name.
    source: where the examples come from.
    """

    name: str
    templates: Sequence[str]
    source: ExampleSource
    _loaded: dict[str, Examples] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    @property
    def classes(self) -> Sequence[ClassName]:
        """Class names in label order; a class with synonyms is a tuple of them."""
        return self.source.classes

    def examples(self, split: str) -> Examples:
        """Return the examples of `train`, `val` or `test`.

        A task with validation data of its own uses that. Elsewhere validation is a tenth of the training subset, at
        most 5,000, drawn by `random_split` with seed 0, as in the papers (of MNIST's 60,000 the first index left for
        training is 36044).
        """
        whole = self._load(self._subset_of(split))
        if split == "test" or self._own_validation:
            return whole
        train, val = split_indices(len(whole))
        if not val:
            raise UserError(f"{self.name} has {len(whole)} training examples, too few to hold some out; give it a val subset")
        return Subset(whole, train if split == "train" else val)

    def fingerprint(self, split: str) -> str:
        """Return what changes whenever the examples of a split might have: their files, or the rule that divides them."""
        subset = self._subset_of(split)
        rule = "whole" if split == "test" or self._own_validation else f"{VALIDATION_SHARE} {VALIDATION_MOST} {SEED}"
        return xxhash.xxh3_128_hexdigest("\n".join((self.name, split, subset, rule, self.source.fingerprint(subset))).encode())

    @property
    def definition(self) -> str:
        """The digest of name, classes, prompts and kind of source, all that defines the task beside its examples."""
        facts = [self.name, list(self.classes), list(self.templates), self.source.kind]
        return xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())

    @property
    def notes(self) -> list[str]:
        """Sentences, to print and to record, on how these examples differ from the papers'. Needs the data."""
        return list(self.source.notes)

    def problems(self, was_fetched: bool = False) -> list[str]:
        """Return sentences on what is missing, where it was looked for and what helps; [] if the data is there.

        was_fetched: whether it was downloaded just now, so that doing so again is no remedy.
        """
        return self.source.problems(was_fetched)

    @property
    def is_fetchable(self) -> bool:
        """Whether the data can be downloaded."""
        return self.source.is_fetchable

    def fetch(self, progress: Progress = SILENT) -> None:
        """Download the data. Raise UserError with the reason and the way by hand.

        progress: listener, in bytes.
        """
        self.source.fetch(progress)

    @property
    def _own_validation(self) -> bool:
        return "val" in self.source.subsets

    def _subset_of(self, split: str) -> str:
        if split not in SPLITS:
            raise ValueError(f"a split is one of {', '.join(SPLITS)}; got {split}")
        return "train" if split == "val" and not self._own_validation else split

    def _load(self, subset: str) -> Examples:
        with self._lock:  # large subsets take long to read and much memory: never twice
            if subset not in self._loaded:
                self._loaded[subset] = self.source.load(subset)
            return self._loaded[subset]


def split_indices(count: int) -> tuple[list[int], list[int]]:
    """Return the (training, validation) indices of `count` examples."""
    val_count = min(int(count * VALIDATION_SHARE), VALIDATION_MOST)
    train, val = torch.utils.data.random_split(range(count), [count - val_count, val_count], Generator().manual_seed(SEED))
    return list(train.indices), list(val.indices)
