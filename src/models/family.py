"""The protocol of a model family, all that the loops that train and score know of an architecture."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

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
    inputs: what the model takes: a tensor (n, ...), or several by name, padded with zeros at the end.
    labels: (n,) indices of the right classes or choices.
    references: of answers that are generated, those that count as right, by example.
    """

    task: str
    inputs: Tensor | Mapping[str, Tensor]
    labels: Tensor
    references: Sequence[Sequence[str]] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Batch":
        """Return the examples of these indices."""
        inputs = self._map(lambda leaf: leaf[indices.to(leaf.device)])
        references = [self.references[index] for index in indices.tolist()] if self.references else ()
        return Batch(self.task, inputs, self.labels[indices.to(self.labels.device)], references)

    def split(self, size: int) -> list["Batch"]:
        """Return the examples in batches of at most `size`."""
        return [self.take(indices) for indices in torch.arange(len(self)).split(size)]

    @classmethod
    def joined(cls, batches: Sequence["Batch"]) -> "Batch":
        """Return the examples of several batches of one task as one."""
        first = batches[0]
        if isinstance(first.inputs, Tensor):
            inputs = torch.cat([batch.inputs for batch in batches])
        else:
            inputs = {name: _padded_cat([batch.inputs[name] for batch in batches]) for name in first.inputs}
        references = [each for batch in batches for each in batch.references]
        return cls(first.task, inputs, torch.cat([batch.labels for batch in batches]), references)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Tensor | dict[str, Tensor]:
        if isinstance(self.inputs, Tensor):
            return change(self.inputs)
        return {name: change(leaf) for name, leaf in self.inputs.items()}


class Predictor(Protocol):
    """A model's answers with some weights."""

    def __call__(self, batch: Batch) -> Tensor:
        """Return the answers, (n,): indices of classes or choices, or digests of texts."""

    def scores(self, batch: Batch) -> Tensor:
        """Return how right each answer is, (n,), 0 to 1."""


class ClassPredictor:
    """The predictor of a function from a batch to class indices, (n,): an answer is right or wrong."""

    def __init__(self, predict: Callable[[Batch], Tensor]):
        self._predict = predict

    def __call__(self, batch: Batch) -> Tensor:
        return self._predict(batch)

    def scores(self, batch: Batch) -> Tensor:
        return self._predict(batch) == batch.labels


Loss = Callable[[dict[str, Tensor], Batch], Tensor]  # returns the loss summed over a batch's examples
Save = Callable[[dict[str, Tensor], Path, Mapping[str, str]], None]


class TaskLike(Protocol):
    """The part of a task (`data.task.Task`) that every model family reads; each reads more of its own kind of tasks.

    definition: digest of all that defines it beside its examples.
    """

    name: str
    definition: str

    def examples(self, split: str) -> Dataset[Any]:
        """Return the examples of `train`, `val` or `test`."""

    def training_examples(self) -> Dataset[Any]:
        """Return the examples that fine-tuning sees."""

    def fingerprint(self, split: str) -> str:
        """Return a string that changes whenever the examples might have changed, computed without reading them."""


class Trainable(nn.Module):
    """The parameters that train, and their loss; a module, so that DistributedDataParallel can share its calls out.

    parameters: by name.
    loss: of named entries on a batch, summed over its examples.
    save: writes the fine-tuned model that entries make, with metadata.
    total: number of parameters of the model that could be trained.
    weights: returns all weights of the model that entries make, as a predictor takes them.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        loss: Loss,
        save: Save,
        total: int,
        weights: Callable[[dict[str, Tensor]], StateDict] = dict,
    ):
        super().__init__()
        self.names, self.total = tuple(parameters), total
        self.values = nn.ParameterList(parameters.values())
        self._loss, self._save, self.weights = loss, save, weights

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

    modality: images or text, what it reads.
    name: as in results and folders.
    identity: digest of what decides predictions beside weights and data: architecture, activation, normalisation.
    precision: of predictions, one of PRECISIONS.
    batch_size: of examples that are scored together, just large enough to keep the device busy.
    pretrained: the weights that fine-tuning starts from.
    pretrained_digests: `entry_digest` of each of these, computed once.
    pretrained_digest: `digest` of them all.
    """

    modality: ClassVar[str]
    name: str
    identity: str
    device: torch.device
    precision: str
    batch_size: int
    pretrained: StateDict
    pretrained_digests: Mapping[str, str]
    pretrained_digest: str

    def canonical(self, weights: StateDict) -> Spelling:
        """Return weights of this architecture under the names that `pretrained` has, where their file has others."""

    def predictor(self, weights: StateDict, precision: str | None = None) -> Predictor:
        """Return a predictor with these weights, in the family's precision or another; several can be in use at once."""

    def with_ia3(self) -> "ModelFamily":
        """Return the same model whose parameters are the vectors of (IA)^3, ones in `pretrained`; its weights stay.

        Raise UserError if it has none.
        """

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
        """Yield the examples of a span, or of a part of one, in order."""

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


def _padded_cat(leaves: Sequence[Tensor]) -> Tensor:
    """Return tensors side by side along their first dimension, with zeros at the end of shorter ones."""
    sizes = [max(lengths) for lengths in zip(*(leaf.shape[1:] for leaf in leaves))]
    pads = ([pad for size, length in zip(sizes[::-1], leaf.shape[:0:-1]) for pad in (0, size - length)] for leaf in leaves)
    return torch.cat([torch.nn.functional.pad(leaf, pad) for leaf, pad in zip(leaves, pads)])
