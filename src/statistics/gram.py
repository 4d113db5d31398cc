"""Gram matrices of what passes through linear layers: of their inputs, and of the gradients of their outputs."""

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.statistics import GRAM_IN, GRAM_OUT
from src.models.family import Batch
from src.statistics.collector import Collector, Sums
from src.statistics.layers import layers_computed_by, linear
from src.statistics.likelihood import Entries, Likelihood

PANEL = 512  # columns of a product whose part below the diagonal is not computed


class GramCollector(Collector):
    """The Gram matrices of linear layers' inputs, and of their outputs' gradients, over batches.

    Layers that read the same tensor share one matrix. Of each token the mean over all that count is taken, so the gradients
    are those of one example's objective, whatever the batch.

    gradients: whether of the outputs' gradients, too.
    """

    def __init__(self, family: Likelihood, entries: Entries, gradients: bool):
        self._family, self._gradients = family, gradients
        self._weights = {name: entries[name].detach().requires_grad_(gradients) for name in family.linear_layers()}
        self._entries = {**entries, **self._weights}
        self._inputs, self._outputs = Sums(GRAM_IN), Sums(GRAM_OUT)
        self.statistics = [self._inputs, self._outputs] if gradients else [self._inputs]

    def together(self, batch_size: int) -> int:
        return batch_size

    def add(self, batch: Batch, weights: Tensor) -> None:
        outputs: dict[str, Tensor] = {}
        readers: dict[int, tuple[Tensor, str]] = {}  # of each input tensor, which is held so that no other takes its place

        def layer(name: str, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            outputs[name] = linear(inputs, weight, bias)
            _, first = readers.setdefault(id(inputs), (inputs, name))
            if first == name:
                self._add_inputs(name, inputs.detach(), batch, weights)
            else:
                self._inputs.aliases[name] = first
            return outputs[name]

        with torch.set_grad_enabled(self._gradients), layers_computed_by(layer, self._weights):
            objective = self._family.objective(self._entries, batch)
        if not outputs:
            raise UserError(
                f"{self._family.name} has no linear layers whose inputs can be seen in this finetuning_mode; use "
                "method=fisher, or method=cg with method.objective=fisher or block_fisher"
            )
        if self._gradients:
            inner = {name: leaf for name, leaf in outputs.items() if name not in self._family.output_layers()}
            # a gradient's outer product is that of its example's objective times the weight
            gradients = torch.autograd.grad((objective * weights.sqrt()).sum(), list(inner.values()), allow_unused=True)
            for name, gradient in zip(inner, gradients):
                if gradient is not None:
                    self._add_gradients(name, gradient, batch, weights)

    def _add_inputs(self, name: str, inputs: Tensor, batch: Batch, weights: Tensor) -> None:
        mask = self._family.token_mask(name, batch)
        if mask is None:  # an answer changes no input, so its weight is not needed
            self._add(self._inputs, name, inputs, inputs[..., 0].numel())
        else:
            counts = mask * weights[:, None]
            self._add(self._inputs, name, inputs * counts.sqrt()[..., None], counts.sum().item())

    def _add_gradients(self, name: str, gradients: Tensor, batch: Batch, weights: Tensor) -> None:
        mask = self._family.token_mask(name, batch)
        if mask is None:
            tokens = gradients[..., 0].numel() // len(batch)
            self._add(self._outputs, name, gradients, tokens * weights.sum().item())
        else:
            self._add(self._outputs, name, gradients * mask[..., None], (mask * weights[:, None]).sum().item())

    @staticmethod
    def _add(statistic: Sums, name: str, tokens: Tensor, count: float) -> None:
        """Add the outer products of tokens, (..., size), of which `count` count; others are zero."""
        rows, size = tokens.flatten(0, -2).float(), tokens.shape[-1]
        total = statistic.at(name, (size, size), rows.device, count)
        for start in range(0, size, PANEL):
            stop = min(start + PANEL, size)
            total[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])
