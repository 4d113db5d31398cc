"""Fisher information: the mean outer product of the gradients of examples' objectives, its diagonal or a block a parameter."""

import warnings
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.func import grad, vmap

from src.errors import UserError
from src.merging.engine.statistics import FISHER_BLOCK, FISHER_DIAG, SHAPES
from src.models.family import Batch
from src.statistics.collector import Collector, Sums
from src.statistics.layers import layers_computed_by, linear
from src.statistics.likelihood import Entries, Likelihood

GRADIENT_BYTES = {"cpu": 2**29, "cuda": 2**33}  # of the gradients of the examples that are differentiated together
MOST_TOGETHER = {"cpu": 64, "cuda": 256}  # of these examples
# Entries of examples' gradients that are squared together: on a CPU they stay in its cache, a GPU is to have enough to do.
PRODUCTS = {"cpu": 2**20, "cuda": 2**28}


class FisherCollector(Collector):
    """A Fisher information over batches, by parameter; its gradients are those of one example at a time.

    kind: a key of SHAPES.
    """

    kind: str

    def __init__(self, family: Likelihood, entries: Entries):
        self._family = family
        self._moving = {name: leaf for name, leaf in entries.items() if SHAPES[self.kind](leaf.shape)}
        self._still = {name: leaf for name, leaf in entries.items() if name not in self._moving}
        self._layers = [name for name in family.linear_layers() if name in self._moving and self.kind == FISHER_DIAG]
        self._sums = Sums(self.kind)
        self.statistics = [self._sums]

    def together(self, batch_size: int) -> int:
        size = sum(leaf.numel() * leaf.element_size() for name, leaf in self._moving.items() if name not in self._layers)
        device = self._family.device.type
        return max(1, min(batch_size, MOST_TOGETHER[device], GRADIENT_BYTES[device] // max(size, 1)))

    def add(self, batch: Batch, weights: Tensor) -> None:
        summed: set[str] = set()  # layers whose gradients come squared, and added up over the examples

        def layer(name: str, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if name in summed:
                raise UserError(f"{self._family.name} computes {name} twice, for which there is no Fisher information here")
            summed.add(name)
            outputs = SquaredLinear.apply(inputs, weight)
            return outputs if bias is None else outputs + bias

        def objective(moving: Entries, inputs: Tensor | dict[str, Tensor], label: Tensor, weight: Tensor) -> Tensor:
            one = inputs[None] if isinstance(inputs, Tensor) else {name: leaf[None] for name, leaf in inputs.items()}
            with layers_computed_by(layer, {name: moving[name] for name in self._layers}):
                value = self._family.objective({**self._still, **moving}, Batch(batch.task, one, label[None]))[0]
            return value * weight.sqrt()

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # where attention's gradient has no batched form
            each = vmap(grad(objective), (None, 0, 0, 0), randomness="error")
            gradients = each(self._moving, batch.inputs, batch.labels, weights)
        for name, gradient in gradients.items():
            shape = SHAPES[self.kind](self._moving[name].shape)
            total = self._sums.at(name, shape, gradient.device, weights.sum().item())
            if name in summed:
                total += gradient[0]
            else:
                self._add(total, gradient)

    @staticmethod
    @abstractmethod
    def _add(total: Tensor, gradients: Tensor) -> None:
        """Add what gradients, (n, *shape), are squared to."""


class FisherDiagonal(FisherCollector):
    """The diagonal alone: squared gradients, in the parameters' shapes."""

    kind = FISHER_DIAG

    @staticmethod
    def _add(total: Tensor, gradients: Tensor) -> None:
        add_squares(total, gradients)


class FisherBlocks(FisherCollector):
    """A matrix for each vector, (size, size), as those of (IA)^3."""

    kind = FISHER_BLOCK

    @staticmethod
    def _add(total: Tensor, gradients: Tensor) -> None:
        total.addmm_(gradients.T, gradients)


class SquaredLinear(Function):
    """A linear layer, `inputs @ weight.T`, in whose backward pass the weight's gradient is squared; under vmap, and summed.

    So the gradients of single examples, each as large as the weight, are never there together.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor) -> Tensor:
        return linear(inputs, weight)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        context.save_for_backward(*inputs)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        inputs, weight = context.saved_tensors
        return gradient @ weight, SquaredProduct.apply(gradient.flatten(0, -2), inputs.flatten(0, -2))


class SquaredProduct(Function):
    """The squared entries of `left.T @ right`; under vmap summed over examples, which then all have this sum."""

    @staticmethod
    def forward(left: Tensor, right: Tensor) -> Tensor:
        return (left.T @ right).square()

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, dimensions: tuple[int | None, int | None], left: Tensor, right: Tensor) -> tuple[Tensor, None]:
        left, right = (leaf.expand(info.batch_size, *leaf.shape) if dimension is None else leaf.movedim(dimension, 0)
                       for leaf, dimension in zip((left, right), dimensions))  # fmt: skip
        total = left.new_zeros(left.shape[-1], right.shape[-1])
        size = together(total)
        for some, others in zip(left.split(size), right.split(size)):
            add_squares(total, torch.bmm(some.mT, others))
        return total, None


def together(total: Tensor) -> int:
    """Return how many examples' entries of this shape are squared together."""
    return max(1, PRODUCTS[total.device.type] // total.numel())


def add_squares(total: Tensor, entries: Tensor) -> None:
    """Add the squares of examples' entries, (n, *shape); of large ones no copy is made."""
    for some in entries.split(together(total)):
        if len(some) == 1:
            total.addcmul_(some[0], some[0])
        else:
            total += some.square().sum(0)
