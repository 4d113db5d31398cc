"""Labels by which Fisher information is taken: the data's, ones drawn from the model, or all by their probabilities."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor

from src.models.family import Batch
from src.statistics.likelihood import Entries, Likelihood

Labelled = tuple[Batch, Tensor]  # a batch, and the weight of each of its examples, (n,)
Labels = Callable[[Likelihood, Entries, Batch, Sequence[Generator]], Iterator[Labelled]]


def empirical(family: Likelihood, entries: Entries, batch: Batch, generators: Sequence[Generator]) -> Iterator[Labelled]:
    """Yield the batch with its own answers: the empirical Fisher information, which vanishes where a model fits its data."""
    yield batch, torch.ones(len(batch), device=family.device)


def drawn(family: Likelihood, entries: Entries, batch: Batch, generators: Sequence[Generator]) -> Iterator[Labelled]:
    """Yield the batch with one answer for each example, drawn from the model: an unbiased estimate of the Fisher information."""
    yield family.sampled(entries, batch, generators), torch.ones(len(batch), device=family.device)


def expected(family: Likelihood, entries: Entries, batch: Batch, generators: Sequence[Generator]) -> Iterator[Labelled]:
    """Yield the batch with each class or choice, weighted by its probability: the Fisher information of these answers."""
    with torch.no_grad():
        probabilities = family.log_probs(entries, batch).softmax(1).float()
    for choice in range(probabilities.shape[1]):
        weights = probabilities[:, choice]
        yield family.with_choice(batch, torch.full_like(batch.labels, choice)), weights


EMPIRICAL = "empirical"  # the labels of the data
LABELS: dict[str, Labels] = {EMPIRICAL: empirical, "true": drawn, "expected": expected}
