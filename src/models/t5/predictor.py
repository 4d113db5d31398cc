"""A T5's answers to batches of examples: the most probable of the choices, or greedily generated texts."""

import contextlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from src.models.family import Batch
from src.models.t5.network import Network, Weights
from src.models.t5.scoring import answer_log_probs, generate, most_probable
from src.models.t5.tasks import TextTaskLike
from src.models.t5.tokens import Tokens, text_digest

Ranking = Callable[[Tensor, Tensor], Tensor]  # returns scores (n, choices) of log-probabilities and choices


class TextPredictor:
    """The predictor of a network with some weights.

    weights: all of the network's, on the device.
    dtype: of the passes.
    ranking: scores choices.
    tasks: those that are asked about, by name.
    """

    def __init__(
        self,
        network: Network,
        weights: Weights,
        dtype: torch.dtype,
        ranking: Ranking,
        tokens: Tokens,
        tasks: Mapping[str, TextTaskLike],
    ):
        self._network, self._weights, self._dtype = network, weights, dtype
        self._ranking, self._tokens, self._tasks = ranking, tokens, tasks

    def __call__(self, batch: Batch) -> Tensor:
        """Return the answers, (n,): indices of choices, or the digests of texts."""
        if "choices" in batch.inputs:
            return self.choice_scores(batch).argmax(1)
        return torch.tensor([text_digest(text) for text in self.texts(batch)], device=batch.labels.device)

    def scores(self, batch: Batch) -> Tensor:
        """Return how right each answer is, (n,), 0 to 1: whether a choice is the right one, or the task's metric of a text."""
        if "choices" in batch.inputs:
            return self(batch) == batch.labels
        metric = self._tasks[batch.task].metric
        pairs = zip(self.texts(batch), batch.references)
        return torch.tensor([metric(text, references) for text, references in pairs], device=batch.labels.device)

    @torch.no_grad()
    def choice_scores(self, batch: Batch) -> Tensor:
        """Return the score of each choice, the highest of which is the answer: (n, choices)."""
        with self._autocast():
            log_probs = answer_log_probs(self._network, self._weights, batch.inputs["input"], batch.inputs["choices"])
        return self._ranking(log_probs, batch.inputs["choices"])

    @torch.no_grad()
    def texts(self, batch: Batch) -> list[str]:
        """Return the generated answers."""
        with self._autocast():
            answers = generate(self._network, self._weights, batch.inputs["input"], most_probable)
        return list(map(self._tokens.text, answers.tolist()))

    def _autocast(self) -> contextlib.AbstractContextManager:
        device = self._weights["shared.weight"].device
        return torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32)
