"""Fisher information: the mean outer product of the gradients of examples' objectives, its diagonal or a block a parameter."""

import warnings
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import grad, vmap

from src.merging.engine.statistics import FISHER_BLOCK, FISHER_DIAG, SHAPES
from src.models.family import Batch
from src.statistics.likelihood import Entries, Likelihood

GRADIENT_BYTES = 2**28  # of the gradients of the examples that are differentiated together
MOST_TOGETHER = 64  # of these examples


class FisherCollector(ABC):
    """A Fisher information over batches, by parameter; its gradients are those of one example at a time.

    kind: a key of SHAPES.
    sums: the sum over all examples added.
    count: the number of examples, each answer counted by its weight.
    """

    kind: ClassVar[str]

    def __init__(self, family: Likelihood, entries: Entries):
        self._family, self._entries = family, dict(entries)
        self.sums: dict[str, Tensor] = {}
        self.count = 0.0

    @staticmethod
    def examples_together(entries: Entries) -> int:
        """Return how many examples' gradients are held together."""
        size = sum(leaf.numel() * leaf.element_size() for leaf in entries.values())
        return max(1, min(MOST_TOGETHER, GRADIENT_BYTES // size))

    def add(self, batch: Batch, weights: Tensor) -> None:
        """Add a batch's examples, each with its weight, (n,)."""

        def objective(entries: Entries, inputs: Tensor | dict[str, Tensor], label: Tensor) -> Tensor:
            one = inputs[None] if isinstance(inputs, Tensor) else {name: leaf[None] for name, leaf in inputs.items()}
            return self._family.objective(entries, Batch(batch.task, one, label[None]))[0]

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # where attention's gradient has no batched form
            gradients = vmap(grad(objective), (None, 0, 0), randomness="error")(self._entries, batch.inputs, batch.labels)
        for name in self.outline:
            gradient = gradients[name]
            total = self._product(gradient.flatten(1), weights.to(gradient))
            self.sums[name] = self.sums[name].add_(total) if name in self.sums else total
        self.count += weights.sum().item()

    def mean(self, name: str) -> Tensor:
        """Return the information of a parameter."""
        return (self.sums[name] / self.count).view(self.outline[name].shape)

    @property
    def outline(self) -> dict[str, Tensor]:
        """The information's shapes, by parameter."""
        shapes = {name: SHAPES[self.kind](leaf.shape) for name, leaf in self._entries.items()}
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items() if shape}

    @abstractmethod
    def _product(self, gradients: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum over examples of what gradients, (n, size), are squared to."""


class FisherDiagonal(FisherCollector):
    """The diagonal alone: squared gradients, in the parameters' shapes."""

    kind = FISHER_DIAG

    def _product(self, gradients: Tensor, weights: Tensor) -> Tensor:
        return weights @ gradients.square_()


class FisherBlocks(FisherCollector):
    """A matrix for each vector, (size, size), as those of (IA)^3."""

    kind = FISHER_BLOCK

    def _product(self, gradients: Tensor, weights: Tensor) -> Tensor:
        rows = gradients.mul_(weights.sqrt()[:, None])
        return rows.T @ rows
