"""Accuracy of the pre-trained, the fine-tuned and the merged models of one family, on the same data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

from src.checkpoints.reading import Checkpoint
from src.data.task import Task
from src.errors import raise_any
from src.evaluation.cache import Cache
from src.evaluation.scorer import Candidate, Job, Score, Scorer
from src.merging.engine.inputs import Ingredients
from src.runtime.distributed import ALONE
from src.state_dict import Kept, added, digest
from src.task_vectors import TaskVector
from src.training.provenance import recipe_digest

CHECKED = 512  # at least so many examples of a task on which a narrow precision is compared with float32


@dataclass(frozen=True)
class Measurement:
    """Scores by task, each computed when asked for and remembered by the scorer's cache.

    at_once: how many merged models may be held in memory together.

    Raises UserError if a checkpoint holds NaN or infinite values, before anything is scored.
    """

    scorer: Scorer
    cache: Cache
    tasks: Mapping[str, Task]
    checkpoints: Mapping[str, Checkpoint]
    given: Ingredients
    at_once: int = 1

    def __post_init__(self):
        raise_any(
            f"{self.checkpoints[name].path} holds NaN or infinite values in {', '.join(facts.non_finite[:3])}; "
            "train or fetch it again"
            for name, facts in self._facts.items()
            if any(self.given.changed(key) for key in facts.non_finite)
        )

    def on(self, tasks: Sequence[Task]) -> "Measurement":
        """The same models, to be scored on these tasks."""
        return replace(self, tasks={task.name: task for task in tasks})

    def zeroshot(self, split: str) -> dict[str, Score]:
        """Of the pre-trained model."""
        return self._by_task(split, lambda name: self._pretrained)

    def finetuned(self, split: str) -> dict[str, Score]:
        """Of each task's own model."""
        return self._by_task(split, self._finetuned)

    def merged(self, families: Sequence[Mapping[str, TaskVector]], split: str, names: Sequence[str]) -> list[dict[str, Score]]:
        """Of the pre-trained model plus each task's vector, for several choices of the vectors, called `names`.

        All are scored in one pass over the data; each is held in memory meanwhile.
        """
        models = [self._merged(vectors, what) for vectors, what in zip(families, names)]
        jobs = [Job(task, split, partial(_of_task, models, name)) for name, task in self.tasks.items()]
        return [dict(zip(self.tasks, row, strict=True)) for row in zip(*self.scorer.scores(jobs), strict=True)]

    def compared(self, vectors: Mapping[str, TaskVector]) -> dict[str, tuple[Score, Score, Score]]:
        """Test scores of the pre-trained, the fine-tuned and the merged model by task, in one pass over the data."""
        merged = self._merged(vectors, "the merged model")
        models = [lambda name: self._pretrained, self._finetuned, merged]
        jobs = [Job(task, "test", partial(_of_task, models, name)) for name, task in self.tasks.items()]
        return {name: tuple(scores) for name, scores in zip(self.tasks, self.scorer.scores(jobs), strict=True)}

    def narrowed(self, vectors: Mapping[str, TaskVector]) -> tuple[int, int]:
        """How many of so many test predictions of the merged model the family's precision makes otherwise than float32."""
        scorer, merged = self.scorer, self._merged(vectors, "the merged model")
        family, tasks = scorer.family, list(self.tasks.values())

        def compare(task: Task) -> list[int]:
            candidate = merged(task.name)
            asked = [*scorer.asked(task, "test"), candidate.digest]

            def count() -> list[int]:
                predictors = [family.predictor(candidate.weights, precision) for precision in (None, "fp32")]
                different = seen = 0
                for batch in family.batches(task, "test", scorer.batch_size, family.spans(task, "test")[0]):
                    narrow, wide = (predict(batch) for predict in predictors)
                    different, seen = different + int((narrow != wide).sum()), seen + len(wide)
                    if seen >= CHECKED:
                        break
                return [different, seen]

            return self.cache.get("precision", asked, count)

        mine = scorer.team.share([CHECKED] * len(tasks))
        found = [pair for part in scorer.team.gathered([compare(tasks[number]) for number in mine]) for pair in part]
        return sum(different for different, _ in found), sum(seen for _, seen in found)

    @property
    def made_of(self) -> tuple[str, dict[str, str]]:
        """The digests of the pre-trained and the fine-tuned weights."""
        return self._pretrained_digest, {task: facts.digest for task, facts in self._facts.items()}

    def alone(self) -> "Measurement":
        """The same, scored by this process without its team."""
        return replace(self, scorer=replace(self.scorer, team=ALONE))

    def lineage(self, tasks: Mapping[str, Task], splits: Sequence[str] = ("val", "test")) -> dict:
        """Digests of all models, and of the heads and data of `tasks`: numbers may be compared where these are equal."""
        family = self.scorer.family
        pretrained, finetuned = self.made_of
        return {
            "model": family.identity,
            "pretrained": pretrained,
            "finetuned": finetuned,
            "recipes": {name: recipe_digest(checkpoint.path) for name, checkpoint in self.checkpoints.items()},
            "tasks": {name: task.definition for name, task in tasks.items()},
            "heads": {name: family.prepare(task) for name, task in tasks.items()},
            "data": {name: {split: family.data_digest(task, split) for split in splits}
                     for name, task in tasks.items()},
        }  # fmt: skip

    def _by_task(self, split: str, model: Callable[[str], Candidate]) -> dict[str, Score]:
        jobs = [Job(task, split, partial(_of_task, [model], name)) for name, task in self.tasks.items()]
        return {name: score for name, (score,) in zip(self.tasks, self.scorer.scores(jobs), strict=True)}

    def _merged(self, vectors: Mapping[str, TaskVector], what: str) -> Callable[[str], Candidate]:
        """Each task's candidate; tasks that share a vector share it. It is made when asked for."""

        by_number = {id(vector): vector for vector in vectors.values()}

        def made(number: int) -> Candidate:
            total = added(self.given.pretrained, by_number[number])
            model = Kept(total.outline, total.__getitem__)  # hashed, then used
            return Candidate(model, digest(model.items()), what)

        candidate = cache(made) if len(by_number) == 1 else made  # each task's own is the scorer's to keep while it is used
        return lambda name: candidate(id(vectors[name]))

    def _finetuned(self, name: str) -> Candidate:
        return Candidate(self.checkpoints[name], self._facts[name].digest, "the fine-tuned model")

    @cached_property
    def _pretrained(self) -> Candidate:
        return Candidate(self.given.pretrained, self._pretrained_digest, "the pre-trained model")

    @cached_property
    def _facts(self) -> dict:
        return {task: self.cache.facts(checkpoint) for task, checkpoint in self.checkpoints.items()}

    @cached_property
    def _pretrained_digest(self) -> str:
        return digest(self.given.pretrained.items())


def _of_task(models: list[Callable[[str], Candidate]], name: str) -> list[Candidate]:
    return [model(name) for model in models]


def accuracies(scores: Mapping[str, Score]) -> dict[str, float]:
    return {task: score.accuracy for task, score in scores.items()}
