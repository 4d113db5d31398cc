"""What a task is: its name, its classes and prompts, and its examples by split."""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import xxhash
from PIL.Image import Image
from torch import Generator
from torch.utils.data import Dataset, Subset

from src.errors import UserError

Examples = Dataset[tuple[Image, int]]
Name = str | tuple[str, ...]  # what a class is called: one name, or synonyms

SPLITS = ("train", "val", "test")
VALIDATION_SHARE, VALIDATION_MOST, SEED = 0.1, 5000, 0


class Origin(Protocol):
    """Where a task's examples come from.

    kind: part of every task's digest, so it is a literal that outlives the names of classes.
    """

    kind: str

    @property
    def classes(self) -> Sequence[Name]: ...

    @property
    def parts(self) -> Sequence[str]:
        """`train` and `test`, and `val` where validation data of its own is there."""

    def part(self, part: str) -> Examples:
        """All examples of a part, as a map-style dataset that several threads may index at once."""

    def state(self, part: str) -> str:
        """A digest that changes whenever the examples of the part might have changed; no image is decoded for it."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences on what makes the examples others than the papers'."""

    def problems(self, fetched: bool = False) -> list[str]: ...

    def fetch(self, plan: Callable[[int], None] | None = None, report: Callable[[str, int], None] | None = None) -> None: ...

    @property
    def fetchable(self) -> bool: ...


@dataclass(frozen=True, eq=False)
class Task:
    """An image classification task; `templates` are prompts with a `{}` for the class name.

    Making one touches no data: its origin is asked when examples or class names are.
    """

    name: str
    templates: Sequence[str]
    origin: Origin
    _made: dict[str, Examples] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    @property
    def classes(self) -> Sequence[Name]:
        """Class names in label order; a class with synonyms is a tuple of them."""
        return self.origin.classes

    def examples(self, split: str) -> Examples:
        """The examples of `train`, `val` or `test`.

        A task with validation data of its own uses that. Elsewhere validation is a tenth of the training part, at
        most 5,000, drawn by `random_split` with seed 0, as in the papers (of MNIST's 60,000 the first index left for
        training is 36044).
        """
        part = self._part_of(split)
        whole = self._whole(part)
        if split == "test" or self._own_validation:
            return whole
        train, val = split_indices(len(whole))
        if not val:
            raise UserError(f"{self.name} has {len(whole)} training examples, too few to hold some out; give it a part val")
        return Subset(whole, train if split == "train" else val)

    def fingerprint(self, split: str) -> str:
        """Changes whenever the examples of a split might have changed: their files, or the rule that divides them."""
        part = self._part_of(split)
        rule = "whole" if split == "test" or self._own_validation else f"{VALIDATION_SHARE} {VALIDATION_MOST} {SEED}"
        return xxhash.xxh3_128_hexdigest("\n".join((self.name, split, part, rule, self.origin.state(part))).encode())

    @property
    def definition(self) -> str:
        """A digest of what is asked: name, classes, prompts, and the kind of place that examples come from."""
        told = [self.name, list(self.classes), list(self.templates), self.origin.kind]
        return xxhash.xxh3_128_hexdigest(json.dumps(told).encode())

    @property
    def notes(self) -> list[str]:
        """Sentences to print and to record: what makes these examples others than the papers'. Needs the data."""
        return list(self.origin.notes)

    def problems(self, fetched: bool = False) -> list[str]:
        """Nothing if the data is there; else sentences that say what is missing, where it was looked for, what helps.

        fetched: it was downloaded just now.
        """
        return self.origin.problems(fetched)

    def fetch(self, plan: Callable[[int], None] | None = None, report: Callable[[str, int], None] | None = None) -> None:
        """Download the data. Raises UserError with the reason and the way by hand.

        plan, report: told how many bytes are to come; and what is being fetched, and how many bytes of it have come.
        """
        self.origin.fetch(plan, report)

    @property
    def fetchable(self) -> bool:
        return self.origin.fetchable

    @property
    def _own_validation(self) -> bool:
        return "val" in self.origin.parts

    def _part_of(self, split: str) -> str:
        if split not in SPLITS:
            raise ValueError(f"a split is one of {', '.join(SPLITS)}; got {split}")
        return "train" if split == "val" and not self._own_validation else split

    def _whole(self, part: str) -> Examples:
        with self._lock:  # large parts take long to read and much memory: never twice
            if part not in self._made:
                self._made[part] = self.origin.part(part)
            return self._made[part]


def split_indices(count: int) -> tuple[list[int], list[int]]:
    """The (training, validation) indices of `count` examples."""
    held = min(int(count * VALIDATION_SHARE), VALIDATION_MOST)
    train, val = torch.utils.data.random_split(range(count), [count - held, held], Generator().manual_seed(SEED))
    return list(train.indices), list(val.indices)
