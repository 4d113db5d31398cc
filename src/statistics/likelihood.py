"""The protocol of a model family whose fine-tuned models' statistics are collected: how probable it finds answers."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor

from src.models.family import Batch, ModelFamily
from src.state_dict import StateDict

Entries = Mapping[str, Tensor]  # parameters on the device, by the names of the family's `pretrained`


class Likelihood(ModelFamily, Protocol):
    """A model family that says how probable answers are, differentiably, how sure it is, and which tokens its layers see."""

    def on_device(self, weights: StateDict) -> dict[str, Tensor]:
        """Return the parameters where the model computes, in float32."""

    def linear_layers(self) -> Sequence[str]:
        """Return the names of the weights W of layers y = W x."""

    def output_layers(self) -> Sequence[str]:
        """Return those of these layers whose outputs are logits: too many for a matrix of all pairs."""

    def objective(self, entries: Entries, batch: Batch, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the log-probability of each right answer, (n,): of several tokens, their mean.

        dtype: of the log-softmax: float32 rounds away what a well-fitted model leaves of the gradient.
        """

    def log_probs(self, entries: Entries, batch: Batch, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the log-probability of each class or choice, (n, choices); -inf for padding."""

    def entropy(self, entries: Entries, batch: Batch) -> Tensor:
        """Return the entropy of each prediction, (n,), in nats: of its classes or choices, or of a generated answer's tokens."""

    def with_choice(self, batch: Batch, choices: Tensor) -> Batch:
        """Return the batch with these choices, (n,) indices, for right answers."""

    def sampled(self, entries: Entries, batch: Batch, generators: Sequence[Generator]) -> Batch:
        """Return the batch with answers drawn by their probabilities for right ones.

        generators: of the examples, whose answers do not depend on what is in the batch beside them.
        """

    def token_mask(self, layer: str, batch: Batch) -> Tensor | None:
        """Return which tokens count in a layer, (n, tokens); None where all do."""
