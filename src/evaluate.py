"""The one evaluation loop: how many examples of a task's split a set of weights gets right."""

from collections.abc import Callable
from dataclasses import dataclass, field

from src.cache import Cache
from src.models.family import ModelFamily, TaskLike
from src.state_dict import StateDict

Report = Callable[[str, int], None]  # what is being done, and how many more examples of it are done


@dataclass(frozen=True)
class Score:
    """`right` of `count` examples."""

    right: int
    count: int

    @property
    def accuracy(self) -> float:
        return self.right / self.count

    @property
    def variance(self) -> float:
        """The sampling variance of the accuracy."""
        return self.accuracy * (1 - self.accuracy) / self.count


@dataclass
class Scorer:
    """Scores weights on tasks, and asks the cache first: only what was never scored is computed.

    fresh: how many scores were computed rather than remembered.
    """

    family: ModelFamily
    cache: Cache
    batch_size: int
    report: Report
    fresh: int = field(default=0, init=False)
    _loaded: str | None = field(default=None, init=False)

    def score(self, weights: StateDict, weights_digest: str, task: TaskLike, split: str, what: str) -> Score:
        """The score of `weights`, known by their digest, on one split of one task; `what` names them in the report."""
        head = self.family.prepare(task)
        made_from = [self.family.identity, weights_digest, head, task.name, split, self.family.data_digest(task, split)]
        before = self.fresh
        score = Score(*self.cache.get("scores", made_from, lambda: self._count(weights, weights_digest, task, split, what)))
        if self.fresh == before:
            self.report(f"remembering {what} on {task.name} ({split})", score.count)
        return score

    def _count(self, weights: StateDict, weights_digest: str, task: TaskLike, split: str, what: str) -> list[int]:
        if self._loaded != weights_digest:
            self.family.load(weights)
            self._loaded = weights_digest
        self.fresh += 1
        right = count = 0
        for batch in self.family.batches(task, split, self.batch_size):
            right += int((self.family.predict(batch) == batch.labels).sum())
            count += len(batch.labels)
            self.report(f"scoring {what} on {task.name} ({split})", len(batch.labels))
        return [right, count]
