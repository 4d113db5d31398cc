"""The schedule of batches: which examples each optimiser step sees, and each process of them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator

from src.models.loader import ExampleId, seed_of
from src.training.recipe import Recipe


@dataclass(frozen=True)
class MicroBatch:
    """One process's share of one pass through the model.

    examples: their ids.
    weight: what a summed loss over these examples counts in the step's mean loss. A process for which no example is
        left passes one of weight 0, so that all processes pass equally often.
    """

    examples: list[ExampleId]
    weight: float


@dataclass(frozen=True)
class BatchSchedule:
    """The examples of each optimiser step, of `count` in all.

    An epoch's order is drawn from the seed and the epoch's number, so that any step is known without those before it.
    """

    count: int
    recipe: Recipe

    @property
    def examples_per_step(self) -> int:
        """The number of examples that an optimiser step sees, in all processes together."""
        return self.recipe.batch_size * self.recipe.num_grad_accumulation

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimiser steps of an epoch; the last one may see fewer examples."""
        return math.ceil(self.count / self.examples_per_step)

    @property
    def steps(self) -> int:
        """The number of optimiser steps, where nothing ends them earlier."""
        return self.recipe.steps or self.recipe.epochs * self.steps_per_epoch

    def size(self, step: int) -> int:
        """Return the number of examples a step sees: the last one of an epoch sees what is left."""
        return min(self.examples_per_step, self.count - step % self.steps_per_epoch * self.examples_per_step)

    def micro_batches(self, rank: int, size: int, start: int) -> Iterator[list[MicroBatch]]:
        """Yield the micro-batches of process `rank` of `size` for each step from `start` on, one for each pass."""
        epoch, order = -1, []
        for step in range(start, self.steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self._epoch(epoch)
            first = step % self.steps_per_epoch * self.examples_per_step
            indices = order[first : first + self.examples_per_step]
            passes = [indices[at : at + self.recipe.batch_size] for at in range(0, len(indices), self.recipe.batch_size)]
            yield [self._micro_batch(epoch, batch, rank, size, 1 / len(indices)) for batch in passes]

    def _micro_batch(self, epoch: int, batch: Sequence[int], rank: int, size: int, weight: float) -> MicroBatch:
        share = batch[rank::size]
        return MicroBatch([(epoch, index) for index in share or batch[:1]], weight if share else 0.0)

    def _epoch(self, number: int) -> list[int]:
        generator = Generator().manual_seed(seed_of(self.recipe.seed, number))
        return torch.randperm(self.count, generator=generator).tolist()
