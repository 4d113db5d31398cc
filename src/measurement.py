"""Accuracy of the pre-trained, the fine-tuned and the merged models of one family, on the same data."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from src.cache import Cache
from src.checkpoints import Checkpoint
from src.data.task import Task
from src.errors import raise_any
from src.evaluate import Score, Scorer
from src.merging.ingredients import Ingredients
from src.state_dict import Kept, added, digest
from src.task_vectors import TaskVector


@dataclass(frozen=True)
class Measurement:
    """Scores by task, each computed when asked for and remembered by the scorer's cache.

    Raises UserError if a checkpoint holds NaN or infinite values, before anything is scored.
    """

    scorer: Scorer
    cache: Cache
    tasks: Mapping[str, Task]
    checkpoints: Mapping[str, Checkpoint]
    given: Ingredients

    def __post_init__(self):
        raise_any(
            f"{self.checkpoints[name].path} holds NaN or infinite values in {', '.join(facts.non_finite[:3])}; "
            "train or fetch it again"
            for name, facts in self._facts.items()
            if any(self.given.changed(key) for key in facts.non_finite)
        )

    def zeroshot(self, task: str, split: str) -> Score:
        weights, known = self.given.pretrained, self._pretrained_digest
        return self.scorer.score(weights, known, self.tasks[task], split, "the pre-trained model")

    def finetuned(self, task: str, split: str) -> Score:
        weights, known = self.checkpoints[task], self._facts[task].digest
        return self.scorer.score(weights, known, self.tasks[task], split, "the fine-tuned model")

    def merged(self, vectors: Mapping[str, TaskVector], split: str, what: str) -> dict[str, Score]:
        """Scores of the pre-trained model plus each task's vector."""
        sums = {id(vector): added(self.given.pretrained, vector) for vector in vectors.values()}
        models = {key: Kept(model.outline, model.__getitem__) for key, model in sums.items()}  # hashed, then loaded
        digests = {key: digest(model.items()) for key, model in models.items()}
        return {
            task: self.scorer.score(models[id(vector)], digests[id(vector)], self.tasks[task], split, what)
            for task, vector in vectors.items()
        }

    def lineage(self) -> dict:
        """Digests of all models, heads and data: numbers may be compared where these are equal."""
        family = self.scorer.family
        return {
            "model": family.identity,
            "pretrained": self._pretrained_digest,
            "finetuned": {task: facts.digest for task, facts in self._facts.items()},
            "heads": {name: family.prepare(task) for name, task in self.tasks.items()},
            "data": {name: {split: family.data_digest(task, split) for split in ("val", "test")}
                     for name, task in self.tasks.items()},
        }  # fmt: skip

    @cached_property
    def _facts(self) -> dict:
        return {task: self.cache.facts(checkpoint) for task, checkpoint in self.checkpoints.items()}

    @cached_property
    def _pretrained_digest(self) -> str:
        return digest(self.given.pretrained.items())
