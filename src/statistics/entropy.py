"""The entropy of a model's predictions on unlabelled examples, drawn at random, step by step."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from src.errors import UserError
from src.models.family import Batch, TaskLike
from src.models.loader import seed_of
from src.runtime.distributed import SINGLE, ProcessGroup
from src.runtime.progress import SILENT, Progress
from src.state_dict import StateDict
from src.statistics.likelihood import Likelihood


@dataclass(frozen=True)
class SampledEntropy:
    """The entropy of predictions on examples of a split (see `engine.unlabelled.PredictionEntropy`); labels are not read.

    The examples of a step follow from the seed, the number of the step and the task's place alone. The processes of a group
    share the tasks.

    size: the examples of a task that a step draws, at most.
    """

    family: Likelihood
    tasks: Mapping[str, TaskLike]
    split: str
    size: int
    seed: int
    group: ProcessGroup = SINGLE
    progress: Progress = SILENT

    def __post_init__(self):
        if not hasattr(self.family, "entropy"):
            raise UserError(
                f"{self.family.name} does not say how sure its predictions are, so nothing learns from them; use another method"
            )

    @cached_property
    def question(self) -> list:
        family = self.family
        data = {name: [family.prepare(task), family.data_digest(task, self.split)] for name, task in self.tasks.items()}
        return [family.identity, data, self.split, self.size, self.seed]

    def plan(self, steps: int) -> None:
        counts = [min(self.size, self.family.count(self.tasks[name], self.split)) for _, name in self._own]
        self.progress.plan(steps * sum(counts))

    def by_task(self, step: int, weights: StateDict) -> Iterator[Tensor]:
        entries = self.family.on_device(weights)
        for number, name in self._own:
            self.family.prepare(self.tasks[name])
            batch = self._draw(self.tasks[name], seed_of(self.seed, step, number))
            yield self.family.entropy(entries, batch).mean()
            self.progress.report(f"learning from unlabelled examples of {name} ({self.split})", len(batch))

    def all_reduce(self, values: Tensor) -> Tensor:
        return torch.stack(self.group.all_gather(values)).sum(0)  # in one order, so that processes agree to the bit

    @property
    def _own(self) -> list[tuple[int, str]]:
        """The tasks of this process, each with its place."""
        names = list(self.tasks)
        return [(number, names[number]) for number in self.group.assign([1] * len(names))]

    def _draw(self, task: TaskLike, seed: int) -> Batch:
        """Return different examples of a task, in order."""
        order = torch.randperm(self.family.count(task, self.split), generator=Generator().manual_seed(seed))
        indices = order[: self.size].sort().values.tolist()
        ranges = [range(index, index + 1) for index in indices]
        return Batch.joined([batch for each in ranges for batch in self.family.batches(task, self.split, 1, each)])
