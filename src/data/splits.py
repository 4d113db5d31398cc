"""The rules that divide training examples into those to train on and those to validate with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator


class SplitRule(Protocol):
    """A rule that holds out validation examples. Its text is part of every fingerprint of a split that it makes."""

    def __call__(self, count: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return the (training, validation) indices of `count` examples; one is empty where they are too few."""

    def __str__(self) -> str:
        """Return what tells this rule from others."""


@dataclass(frozen=True)
class RandomShare:
    """A share of the examples, at most `most`, drawn by `random_split` with a seed."""

    share: float
    most: int
    seed: int

    def __call__(self, count: int) -> tuple[Sequence[int], Sequence[int]]:
        held_out = min(int(count * self.share), self.most)
        generator = Generator().manual_seed(self.seed)
        train, val = torch.utils.data.random_split(range(count), [count - held_out, held_out], generator)
        return train.indices, val.indices

    def __str__(self) -> str:
        return f"{self.share} {self.most} {self.seed}"


@dataclass(frozen=True)
class LastRows:
    """The last `rows` examples, in the order of their files."""

    rows: int

    def __call__(self, count: int) -> tuple[Sequence[int], Sequence[int]]:
        first = max(count - self.rows, 0)
        return range(first), range(first, count)

    def __str__(self) -> str:
        return f"last {self.rows}"


# That of the papers on images: of MNIST's 60,000 the first index left for training is 36044.
RANDOM_TENTH = RandomShare(0.1, 5000, 0)
