"""What a model family answers, whatever the architecture: the loops that train and score know nothing else."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Generator, Tensor, nn
from torch.utils.data import Dataset

from src.state_dict import StateDict


@dataclass(frozen=True)
class Batch:
    """Model-ready inputs of one task; labels (n,) are class indices."""

    task: str
    inputs: Tensor
    labels: Tensor


class TaskLike(Protocol):
    """The part of a task that a family reads."""

    name: str
    classes: Sequence[str]
    templates: Sequence[str]

    def examples(self, split: str) -> Dataset[Any]: ...


class ModelFamily(Protocol):
    """One architecture with one pre-trained model."""

    name: str
    identity: str  # a digest of all that decides predictions and that neither weights nor data show
    pretrained: StateDict

    def load(self, weights: StateDict) -> None:
        """Make these the weights that `predict` and `loss` use."""

    def weights(self) -> StateDict:
        """The weights in use, under the names checkpoints have."""

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that fine-tuning changes."""

    def prepare(self, task: TaskLike) -> str:
        """Get ready to predict the task's classes; returns a digest of what was made (a head)."""

    def batches(self, task: TaskLike, split: str, size: int) -> Iterator[Batch]:
        """All examples of a split, in order."""

    def training_batches(self, task: TaskLike, size: int, order: Generator) -> Iterator[Batch]:
        """One epoch of augmented training examples, shuffled by `order`."""

    def data_digest(self, task: TaskLike, split: str) -> str:
        """A fingerprint of a split's examples and labels, as the model sees them."""

    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch."""

    def predict(self, batch: Batch) -> Tensor:
        """The predicted class indices, (n,)."""

    def depth(self, key: str) -> float | None:
        """The place of a parameter: 0 in the first block, 1 in the last, None outside the blocks."""
