"""The parts of text tasks that a T5 reads."""

from collections.abc import Sequence
from typing import Protocol

from torch.utils.data import Dataset

from src.models.family import TaskLike


class TextExampleLike(Protocol):
    """The part of a templated example (`data.text.examples.TextExample`) that the model reads.

    input: the prompt.
    target: the right answer.
    choices: the answers to choose among; () where the answer is generated.
    label: the index of the right choice; None without choices.
    references: answers that count as right where the answer is generated.
    """

    input: str
    target: str
    choices: tuple[str, ...]
    label: int | None
    references: tuple[str, ...]


class TextTaskLike(TaskLike, Protocol):
    """The part of a text task (`data.text.task.TextTask`) that the model reads."""

    def examples(self, split: str) -> Dataset[TextExampleLike]:
        """Return the examples of `train`, `val` or `test`, each under one template."""

    def training_examples(self) -> Dataset[TextExampleLike]:
        """Return the training examples, each under every template."""

    def metric(self, prediction: str, references: Sequence[str]) -> float:
        """Return how right a generated answer is, 0 to 1."""
