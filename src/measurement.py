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
        scores = {}
        for shared in {id(vector): vector for vector in vectors.values()}.values():
            total = added(self.given.pretrained, shared)
            model = Kept(total.outline, total.__getitem__)  # hashed, then loaded
            known = digest(model.items())
            for task in (task for task, vector in vectors.items() if vector is shared):
                scores[task] = self.scorer.score(model, known, self.tasks[task], split, what)
        return {task: scores[task] for task in vectors}

    @property
    def made_of(self) -> tuple[str, dict[str, str]]:
        """The digests of the pre-trained and the fine-tuned weights."""
        return self._pretrained_digest, {task: facts.digest for task, facts in self._facts.items()}

    def lineage(self) -> dict:
        """Digests of all models, heads and data: numbers may be compared where these are equal."""
        family = self.scorer.family
        pretrained, finetuned = self.made_of
        return {
            "model": family.identity,
            "pretrained": pretrained,
            "finetuned": finetuned,
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
