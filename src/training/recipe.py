"""The numbers of a fine-tuning, and what follows from them alone: learning rates, and which examples each step sees."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator

from src.errors import UserError
from src.merging.method import is_number
from src.models.example_ids import Place, seed_of


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune: AdamW, linear warm-up then cosine to zero per optimiser step, gradients clipped by norm.

    An optimiser step sees `batch_size * num_grad_accumulation` examples, whose mean loss it lowers, however many processes
    share them; `batch_size` of them go through the model at a time.
    """

    lr: float
    weight_decay: float
    warmup_steps: int
    epochs: int
    batch_size: int
    num_grad_accumulation: int
    max_grad_norm: float
    seed: int

    def __post_init__(self):
        counts = ("epochs", "batch_size", "num_grad_accumulation")
        wrong = [f"{name} is a positive whole number; got {getattr(self, name)}" for name in counts
                 if not _is_whole(getattr(self, name)) or getattr(self, name) < 1]  # fmt: skip
        wrong += [f"{name} is a positive number; got {getattr(self, name)}" for name in ("lr", "max_grad_norm")
                  if not is_number(getattr(self, name)) or not getattr(self, name) > 0]  # fmt: skip
        if not is_number(self.weight_decay) or self.weight_decay < 0:
            wrong.append(f"weight_decay is a number, 0 for none; got {self.weight_decay}")
        wrong += [f"{name} is a whole number, at least 0; got {getattr(self, name)}" for name in ("warmup_steps", "seed")
                  if not _is_whole(getattr(self, name)) or getattr(self, name) < 0]  # fmt: skip
        if wrong:
            raise UserError([f"model.recipe.{sentence}" for sentence in wrong])

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of optimiser step `step` of `steps`, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        gone = (step - self.warmup_steps) / max(steps - self.warmup_steps, 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * gone))


@dataclass(frozen=True)
class Part:
    """One process's share of one pass through the model. weight: of its summed loss in the mean over the step's examples; a
    process for which nothing is left is given an example of weight 0, so that all pass equally often."""

    places: list[Place]
    weight: float


@dataclass(frozen=True)
class Order:
    """Which of `count` examples each optimiser step sees. An epoch's order is drawn from the seed and its number, so that
    any step can be found without those before it."""

    count: int
    recipe: Recipe

    @property
    def together(self) -> int:
        """Examples of a step."""
        return self.recipe.batch_size * self.recipe.num_grad_accumulation

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.count / self.together)

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    def size(self, step: int) -> int:
        """How many examples a step sees: an epoch's last one, what is left."""
        return min(self.together, self.count - step % self.steps_per_epoch * self.together)

    def parts(self, rank: int, size: int, start: int) -> Iterator[list[Part]]:
        """Of each step from `start` on, the parts of process `rank` of `size`, one for each pass through the model."""
        epoch, order = -1, []
        for step in range(start, self.steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self._epoch(epoch)
            first = step % self.steps_per_epoch * self.together
            seen = order[first : first + self.together]
            passes = [seen[at : at + self.recipe.batch_size] for at in range(0, len(seen), self.recipe.batch_size)]
            yield [self._part(epoch, indices, rank, size, 1 / len(seen)) for indices in passes]

    def _part(self, epoch: int, indices: Sequence[int], rank: int, size: int, weight: float) -> Part:
        mine = indices[rank::size]
        return Part([(epoch, index) for index in mine or indices[:1]], weight if mine else 0.0)

    def _epoch(self, number: int) -> list[int]:
        generator = Generator().manual_seed(seed_of(self.recipe.seed, number))
        return torch.randperm(self.count, generator=generator).tolist()


def _is_whole(value: object) -> bool:
    return type(value) is int
