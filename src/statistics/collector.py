"""Statistics in the making: sums over a model's passes, which can be written down and gone on with."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from src.merging.engine.statistics import FISHER_DIAG
from src.models.family import Batch
from src.state_dict import Lazy


@dataclass
class Sums:
    """A statistic of each parameter, summed over examples or tokens.

    kind: a key of `engine.statistics.SHAPES`.
    sums: by parameter; of matrices the upper triangle is meant, and what is below is not.
    counts: the number of examples or tokens, each answer of them counted by its weight, by parameter.
    aliases: further parameters, by the one whose statistic is theirs, too.
    """

    kind: str
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def at(self, name: str, shape: Sequence[int], device: torch.device, count: float) -> Tensor:
        """Return a parameter's sum, float32, to which what `count` examples or tokens give is to be added."""
        if name not in self.sums:
            self.sums[name], self.counts[name] = torch.zeros(shape, device=device), 0.0
        self.counts[name] += count
        return self.sums[name]

    @property
    def means(self) -> Lazy:
        """The statistic by parameter, computed when it is read; matrices are symmetric."""
        return Lazy({name: leaf.to("meta") for name, leaf in self.sums.items()}, self._mean)

    def _mean(self, name: str) -> Tensor:
        mean = self.sums[name] / self.counts[name]
        return mean if self.kind == FISHER_DIAG else mean.triu() + mean.triu(1).T


class Collector(ABC):
    """What is done with each batch.

    statistics: those that come from one pass.
    """

    statistics: list[Sums]

    @abstractmethod
    def together(self, batch_size: int) -> int:
        """Return how many examples pass through the model together, where `batch_size` could."""

    @abstractmethod
    def add(self, batch: Batch, weights: Tensor) -> None:
        """Add a batch's examples, each with its weight, (n,)."""
