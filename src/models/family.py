"""The protocol of a model family, all that the loops that train and score know of an architecture."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from src.checkpoints.naming import Spelling
from src.models.loader import ExampleId
from src.models.modes import Mode
from src.state_dict import StateDict

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """Examples of one task, ready for the model.

    task: its name.
    inputs: what the model takes.
    labels: (n,) class indices.
    """

    task: str
    inputs: Tensor
    labels: Tensor


Predictor = Callable[[Batch], Tensor]  # returns the predicted class indices, (n,)
Loss = Callable[[dict[str, Tensor], Batch], Tensor]  # returns the loss summed over a batch's examples
Save = Callable[[dict[str, Tensor], Path, Mapping[str, str]], None]


class TaskLike(Protocol):
    """The part of a task (`data.task.Task`) that a model family reads.

    classes: names in label order; a class with several names is a tuple of them.
    templates: prompts with a `{}` for the class name.
    definition: digest of name, classes, prompts and kind of source.
    """

    name: str
    classes: Sequence[str | tuple[str, ...]]
    templates: Sequence[str]
    definition: str

    def examples(self, split: str) -> Dataset[Any]:
        """Return the examples of `train`, `val` or `test`."""

    def fingerprint(self, split: str) -> str:
        """Return a string that changes whenever the examples might have changed, computed without reading them."""


class Trainable(nn.Module):
    """The parameters that train, and their loss; a module, so that DistributedDataParallel can share its calls out.

    parameters: by name.
    loss: of named entries on a batch, summed over its examples.
    save: writes the fine-tuned model that entries make, with metadata.
    total: number of parameters of the model that could be trained.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], loss: Loss, save: Save, total: int):
        super().__init__()
        self.names, self.total = tuple(parameters), total
        self.values = nn.ParameterList(parameters.values())
        self._loss, self._save = loss, save

    @property
    def entries(self) -> dict[str, nn.Parameter]:
        """The parameters by name."""
        return dict(zip(self.names, self.values))

    @property
    def count(self) -> int:
        """The number of parameters that train, entry by entry."""
        return sum(leaf.numel() for leaf in self.values)

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss summed over the batch's examples."""
        return self._loss(self.entries, batch)

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the fine-tuned model, which appears under its name when it is complete."""
        self._save({key: leaf.detach() for key, leaf in self.entries.items()}, path, metadata)


class ModelFamily(Protocol):
    """One architecture with one pre-trained model.

    name: as in results and folders.
    identity: digest of what decides predictions beside weights and data: architecture, activation, normalisation.
    precision: of predictions, one of PRECISIONS.
    pretrained: the weights that fine-tuning starts from.
    pretrained_digests: `entry_digest` of each of these, computed once.
    pretrained_digest: `digest` of them all.
    """

    name: str
    identity: str
    device: torch.device
    precision: str
    pretrained: StateDict
    pretrained_digests: Mapping[str, str]
    pretrained_digest: str

    def canonical(self, weights: StateDict) -> Spelling:
        """Return weights of this architecture under the names that `pretrained` has, where their file has others."""

    def predictor(self, weights: StateDict, precision: str | None = None) -> Predictor:
        """Return a predictor with these weights, in the family's precision or another; several can be in use at once."""

    def linearized(self) -> "ModelFamily":
        """Return the same family predicting with the tangent model around `pretrained`."""

    def trainable(self, mode: Mode) -> Trainable:
        """Return the parameters that a fine-tuning mode trains, starting from `pretrained`, with their loss."""

    def prepare(self, task: TaskLike) -> str:
        """Build or read what predicts the task's classes (a head), and keep it; return its digest."""

    def spans(self, task: TaskLike, split: str) -> Sequence[range]:
        """Return the ranges of examples in which a split is scored; scores are cached by range."""

    def count(self, task: TaskLike, split: str) -> int:
        """Return the number of examples of a split."""

    def batches(self, task: TaskLike, split: str, size: int, span: range) -> Iterator[Batch]:
        """Yield the examples of a span, in order."""

    def training_batches(
        self, task: TaskLike, batches: Iterable[Sequence[ExampleId]], seed: int, workers: int
    ) -> Iterator[Batch]:
        """Yield augmented training examples, a batch for each of `batches`.

        What is random in an example follows from the seed and its id alone.

        workers: processes that load batches in advance, 0 for none.
        """

    def data_digest(self, task: TaskLike, split: str) -> str:
        """Return a fingerprint of a split's examples and labels, as the model sees them."""

    def depth(self, key: str) -> float | None:
        """Return the depth of a parameter: 0 in the first block, 1 in the last, None outside the blocks."""

    def is_layer(self, key: str) -> bool:
        """Whether a two-dimensional parameter is a layer's matrix."""

    def notes(self, tasks: Iterable[TaskLike]) -> list[str]:
        """Return sentences, for the record, on how the tasks' classes are predicted."""

    def head_sources(self, tasks: Iterable[TaskLike]) -> dict[str, str]:
        """Return the origin of each task's head by task, for the lineage."""
