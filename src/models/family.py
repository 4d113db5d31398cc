"""What a model family answers, whatever the architecture: the loops that train and score know nothing else."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from src.models.example_ids import Place
from src.models.modes import Mode
from src.models.trainable import Learner
from src.state_dict import StateDict

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """Model-ready inputs of one task; labels (n,) are class indices."""

    task: str
    inputs: Tensor
    labels: Tensor


Predictor = Callable[[Batch], Tensor]  # the predicted class indices, (n,)


class TaskLike(Protocol):
    """The part of a task that a family reads. A class with several names is a tuple of them."""

    name: str
    classes: Sequence[str | tuple[str, ...]]
    templates: Sequence[str]
    definition: str  # a digest of what the task asks

    def examples(self, split: str) -> Dataset[Any]: ...

    def fingerprint(self, split: str) -> str:
        """What changes when the examples might have, found without looking at them."""


class ModelFamily(Protocol):
    """One architecture with one pre-trained model."""

    name: str
    identity: str  # a digest of all that decides predictions and that neither weights nor data show
    device: torch.device
    precision: str  # of predictions, one of PRECISIONS
    pretrained: StateDict

    def named(self, weights: StateDict) -> StateDict:
        """Weights of this architecture under the names that `pretrained` has, where their file has others."""

    def predictor(self, weights: StateDict, precision: str | None = None) -> Predictor:
        """Predictions of these weights, in the family's precision or another. Several live side by side."""

    def linearized(self) -> "ModelFamily":
        """The same, predicting with the tangent model around `pretrained`."""

    def learner(self, mode: Mode) -> Learner:
        """What trains in a mode, starting from `pretrained`."""

    def prepare(self, task: TaskLike) -> str:
        """Get ready to predict the task's classes; returns a digest of what was made (a head)."""

    def spans(self, task: TaskLike, split: str) -> Sequence[range]:
        """The parts in which a split is scored, and scores are kept."""

    def count(self, task: TaskLike, split: str) -> int:
        """How many examples a split has."""

    def batches(self, task: TaskLike, split: str, size: int, span: range) -> Iterator[Batch]:
        """The examples of a span, in order."""

    def training_batches(self, task: TaskLike, places: Iterable[Sequence[Place]], seed: int, workers: int) -> Iterator[Batch]:
        """Augmented training examples: of each batch, those of these epochs and numbers. What is random in them follows from
        the seed and their place alone. workers: processes that make them ahead, 0 for none."""

    def data_digest(self, task: TaskLike, split: str) -> str:
        """A fingerprint of a split's examples and labels, as the model sees them."""

    def depth(self, key: str) -> float | None:
        """The place of a parameter: 0 in the first block, 1 in the last, None outside the blocks."""
