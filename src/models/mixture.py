"""A mixture of tasks, which one model is fine-tuned on (multitask learning)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import xxhash
from torch.utils.data import ConcatDataset, Dataset

from src.models.family import TaskLike


class MixedTask(TaskLike, Protocol):
    """A task that may be part of a mixture."""

    def mixture_examples(self) -> Dataset[Any]:
        """Return the training examples that are its part of a mixture."""


@dataclass(frozen=True)
class Mixture:
    """Several tasks as one to fine-tune on: it has the training examples of all."""

    tasks: Sequence[MixedTask]

    @property
    def name(self) -> str:
        """The names of the tasks."""
        return f"mixture-{'+'.join(task.name for task in self.tasks)}"

    @property
    def definition(self) -> str:
        """The digest of the tasks' definitions."""
        return _digest([task.definition for task in self.tasks])

    def training_examples(self) -> ConcatDataset:
        """Return the tasks' parts, one after another."""
        return ConcatDataset([task.mixture_examples() for task in self.tasks])

    def fingerprint(self, split: str) -> str:
        """Return what changes whenever the examples of one of the tasks might have."""
        return _digest([task.fingerprint(split) for task in self.tasks])


def tasks_of(task: TaskLike | Mixture) -> Sequence[TaskLike]:
    """Return the tasks of a mixture; of a task, itself alone."""
    return task.tasks if isinstance(task, Mixture) else [task]


def _digest(facts: list[str]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())
