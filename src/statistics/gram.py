"""Gram matrices of what passes through linear layers: of their inputs, and of the gradients of their outputs."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from src.models.family import Batch
from src.state_dict import Lazy
from src.statistics.likelihood import Entries, Likelihood

PANEL = 512  # columns of a product whose part below the diagonal is not computed


class GramSum:
    """The sum of x x^T over rows x, of which the upper triangle alone is computed; float32.

    rows: how many were added.
    """

    def __init__(self, size: int, device: torch.device):
        self.sum, self.rows = torch.zeros(size, size, device=device), 0

    def add(self, rows: Tensor, count: int) -> None:
        """Add rows, (n, size), of which `count` count; others are zero."""
        size = rows.shape[1]
        for start in range(0, size, PANEL):
            stop = min(start + PANEL, size)
            self.sum[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])
        self.rows += count

    def mean(self) -> Tensor:
        """Return the mean of x x^T, (size, size)."""
        upper = self.sum.triu() / self.rows
        return upper + upper.triu(1).T


def means(sums: Mapping[str, GramSum]) -> Lazy:
    """Return the mean matrices by name."""
    return Lazy({name: each.sum.to("meta") for name, each in sums.items()}, lambda name: sums[name].mean())


@contextlib.contextmanager
def layer_inputs(weights: Mapping[str, Tensor], visit: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Call `visit(name, inputs, outputs)` whenever a linear layer with one of these weights computes.

    `F.linear` is watched, not modules: attention of torch computes its projections without calling any.
    """
    names = {id(weight): name for name, weight in weights.items()}
    real = F.linear

    def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        outputs = real(inputs, weight, bias)
        if name := names.get(id(weight)):
            visit(name, inputs, outputs)
        return outputs

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it computes all of attention at once
    F.linear = linear
    try:
        yield
    finally:
        F.linear = real
        torch.backends.mha.set_fastpath_enabled(fast)


class GramCollector:
    """The Gram matrices of linear layers' inputs, and of their outputs' gradients, over batches.

    Layers that read the same tensor share one matrix. Of each token the mean over all that count is taken, so the gradients
    are those of one example's objective, whatever the batch.

    gradients: whether of the outputs' gradients, too.
    """

    def __init__(self, family: Likelihood, entries: Entries, gradients: bool):
        self._family, self._gradients = family, gradients
        self._weights = {name: entries[name].detach().requires_grad_(gradients) for name in family.linear_layers()}
        self._entries = {**entries, **self._weights}
        self.inputs: dict[str, GramSum] = {}
        self.outputs: dict[str, GramSum] = {}
        self.aliases: dict[str, str] = {}

    def add(self, batch: Batch, weights: Tensor) -> None:
        """Add a batch's examples, each with its weight, (n,)."""
        outputs: dict[str, Tensor] = {}
        readers: dict[int, tuple[Tensor, str]] = {}  # of each input tensor, which is held so that no other takes its place

        def visit(name: str, inputs: Tensor, output: Tensor) -> None:
            outputs[name] = output
            _, first = readers.setdefault(id(inputs), (inputs, name))
            if first == name:
                self._add(self.inputs, name, inputs.detach(), batch, weights)
            else:
                self.aliases[name] = first

        with torch.set_grad_enabled(self._gradients), layer_inputs(self._weights, visit):
            objective = self._family.objective(self._entries, batch)
        if self._gradients:
            gradients = torch.autograd.grad(objective.sum(), list(outputs.values()), allow_unused=True)
            for name, gradient in zip(outputs, gradients):
                if gradient is not None:
                    self._add(self.outputs, name, gradient, batch, weights)

    def _add(self, sums: dict[str, GramSum], name: str, rows: Tensor, batch: Batch, weights: Tensor) -> None:
        mask = self._family.token_mask(name, batch)
        if mask is not None:
            counts = mask * weights[:, None]
            rows, count = (rows * counts.sqrt()[..., None]).flatten(0, -2), counts.sum().item()
        else:
            rows, count = rows.flatten(0, -2), rows.flatten(0, -2).shape[0]
        sums.setdefault(name, GramSum(rows.shape[1], rows.device)).add(rows.float(), count)
