"""Tasks: a name and examples by split, whatever the examples are."""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import xxhash
from torch.utils.data import Dataset, Subset

from src.data.splits import SplitRule
from src.errors import UserError
from src.runtime.progress import SILENT, Progress

Examples = Dataset[Any]  # map-style: of (image, label), or of `TextExample`

SPLITS = ("train", "val", "test")


class ExampleSource(Protocol):
    """Where a task's examples come from.

    A source keeps subsets, as they lie on disk; a task makes its splits of these.

    kind: part of every task's digest, so it is a literal that outlives the names of classes.
    """

    kind: str

    @property
    def subsets(self) -> Sequence[str]:
        """`train` and `test`, and `val` where there is validation data of its own."""

    def load(self, subset: str) -> Examples:
        """Return all examples of a subset, as a map-style dataset that several threads may index at once."""

    def fingerprint(self, subset: str) -> str:
        """Return what changes whenever the examples of the subset might have changed; none is read for it."""

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


class BundledSource:
    """The part of a source that every one has whose examples the program makes itself: nothing is missing or fetched."""

    @property
    def notes(self) -> list[str]:
        return []

    def problems(self, was_fetched: bool = False) -> list[str]:
        return []

    @property
    def is_fetchable(self) -> bool:
        return False

    def fetch(self, *_: object) -> None:
        """Do nothing: there is no data."""


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """A task: what image and text tasks share.

    Making one touches no data: its source is asked when examples are read.

    modality: images or text, what its examples are of.
    source: where the examples come from.
    split_rule: how validation examples are held out where the source has none of its own.
    """

    modality: ClassVar[str]

    name: str
    source: ExampleSource
    split_rule: SplitRule = field(kw_only=True)
    _loaded: dict[str, Examples] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    @property
    @abstractmethod
    def facts(self) -> list:
        """All that defines the task beside its examples, as JSON."""

    def examples(self, split: str) -> Examples:
        """Return the examples of `train`, `val` or `test`: validation data of the source's own, else what the rule holds out."""
        whole = self._load(self._subset_of(split))
        if split == "test" or self._own_validation:
            return whole
        train, val = self.split_rule(len(whole))
        if not (train and val):
            raise UserError(f"{self.name} has {len(whole)} training examples, too few to hold some out; give it a val subset")
        return Subset(whole, train if split == "train" else val)

    def training_examples(self) -> Examples:
        """Return the examples that fine-tuning reads."""
        return self.examples("train")

    def mixture_examples(self) -> Examples:
        """Return the examples that are this task's part where one model is fine-tuned on several tasks."""
        return self.training_examples()

    def fingerprint(self, split: str) -> str:
        """Return what changes whenever the examples of a split might have: their files, or the rule that divides them."""
        subset = self._subset_of(split)
        rule = "whole" if split == "test" or self._own_validation else str(self.split_rule)
        return xxhash.xxh3_128_hexdigest("\n".join((self.name, split, subset, rule, self.source.fingerprint(subset))).encode())

    @property
    def definition(self) -> str:
        """The digest of `facts`."""
        return xxhash.xxh3_128_hexdigest(json.dumps(self.facts).encode())

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
