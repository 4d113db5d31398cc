"""Accuracy of the pre-trained, the fine-tuned and the merged models of one family, on the same data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial

from src.checkpoints.reading import Checkpoint
from src.data.task import Task
from src.elementwise import add_vector
from src.errors import raise_any
from src.evaluation.cache import ContentSummary
from src.evaluation.scorer import Candidate, Job, Score, Scorer
from src.merging.engine.inputs import MergeInputs
from src.models.family import ModelFamily
from src.runtime.distributed import SINGLE
from src.state_dict import Memoized, StateDict, byte_size, combined_digest, entry_digest
from src.task_vectors import TaskVector
from src.training.provenance import recipe_digest_of

PRECISION_EXAMPLES = 512  # of a task, at least, on which a narrow precision is compared with float32


@dataclass(frozen=True)
class Evaluator:
    """Scores by task, each computed when asked for and remembered by the scorer's cache.

    tasks: those to be scored on, by name.
    checkpoints: the fine-tuned models, by task, of those that have one.
    inputs: the inputs of merges; None where nothing is merged.
    candidates_per_pass: number of merged models that are held in memory together.
    summaries: of the checkpoints, by task; if empty, the processes of the group read each checkpoint once.

    Raise UserError if a checkpoint holds NaN or infinite values, before anything is scored.
    """

    scorer: Scorer
    tasks: Mapping[str, Task]
    checkpoints: Mapping[str, Checkpoint]
    inputs: MergeInputs | None
    candidates_per_pass: int = 1
    summaries: Mapping[str, ContentSummary] = field(default_factory=dict)

    def __post_init__(self):
        if not self.summaries:
            object.__setattr__(self, "summaries", _summaries(self.scorer, self.checkpoints))
        raise_any(
            f"{self.checkpoints[name].path} holds NaN or infinite values in {', '.join(summary.non_finite[:3])}; "
            "train or fetch it again"
            for name, summary in self.summaries.items()
            if any(self.inputs.changed(key) for key in summary.non_finite)
        )

    @property
    def family(self) -> ModelFamily:
        """The model family of all models scored here."""
        return self.scorer.family

    def on(self, tasks: Sequence[Task]) -> "Evaluator":
        """Return an evaluator of the same models on these tasks."""
        return replace(self, tasks={task.name: task for task in tasks})

    def single_process(self) -> "Evaluator":
        """Return an evaluator whose scores this process computes without its group."""
        return replace(self, scorer=replace(self.scorer, group=SINGLE))

    def zeroshot(self, split: str) -> dict[str, Score]:
        """Return the scores of the pre-trained model."""
        return self._scores(split, lambda task: self._pretrained)

    def finetuned(self, split: str) -> dict[str, Score]:
        """Return the scores of each task's own model."""
        return self._scores(split, self._finetuned)

    def merged(self, merges: Sequence[Mapping[str, TaskVector]], split: str, names: Sequence[str]) -> list[dict[str, Score]]:
        """Return the scores of the pre-trained model plus each task's vector, for several merges.

        All are scored in one pass over the data; each is held in memory meanwhile.

        merges: of each, the vectors by task.
        names: what the merged models are called in reports.
        """
        models = [self._merged(vectors, name) for vectors, name in zip(merges, names)]
        jobs = [Job(task, split, partial(_candidates, models, name)) for name, task in self.tasks.items()]
        return [dict(zip(self.tasks, scores, strict=True)) for scores in zip(*self.scorer.scores(jobs), strict=True)]

    def sweep(
        self,
        merges: Callable[[float], Mapping[str, TaskVector]],
        coefficients: Sequence[float],
        split: str,
        name: Callable[[float], str],
    ) -> list[dict[str, Score]]:
        """Return the scores of a merge at each coefficient: a pass over the data for as many as are held together.

        merges: returns the vectors by task.
        name: returns what a merged model is called in reports.
        """
        scores: list[dict[str, Score]] = []
        for start in range(0, len(coefficients), self.candidates_per_pass):  # no more vectors at a time than models
            batch = coefficients[start : start + self.candidates_per_pass]
            names = [name(coefficient) for coefficient in batch]
            scores += self.merged([merges(coefficient) for coefficient in batch], split, names)
        return scores

    def compare(self, vectors: Mapping[str, TaskVector]) -> dict[str, dict[str, Score]]:
        """Return test scores by task and model, `zeroshot`, `merged` (that of each example, too) and, of tasks that have one,
        `finetuned`, in one pass over the data."""
        models = {
            "zeroshot": lambda task: self._pretrained,
            "finetuned": self._finetuned,
            "merged": self._merged(vectors, "the merged model", with_examples=True),
        }
        kinds = {name: [kind for kind in models if kind != "finetuned" or name in self.checkpoints] for name in self.tasks}
        jobs = [Job(task, "test", partial(_candidates, [models[kind] for kind in kinds[name]], name))
                for name, task in self.tasks.items()]  # fmt: skip
        return {name: dict(zip(kinds[name], scores)) for name, scores in zip(self.tasks, self.scorer.scores(jobs), strict=True)}

    def precision_differences(self, vectors: Mapping[str, TaskVector]) -> tuple[int, int]:
        """Return (different, compared): on how many test examples the family's precision and float32 predict otherwise."""
        scorer, merged, tasks = self.scorer, self._merged(vectors, "the merged model"), list(self.tasks.values())

        def compare(task: Task) -> list[int]:
            candidate = merged(task.name)
            key = [*scorer.key(task, "test"), candidate.digest]

            def count() -> list[int]:
                predictors = [self.family.predictor(candidate.weights, precision) for precision in (None, "fp32")]
                different = examples = 0
                for batch in self.family.batches(task, "test", scorer.batch_size, self.family.spans(task, "test")[0]):
                    narrow, wide = (predict(batch) for predict in predictors)
                    different, examples = different + int((narrow != wide).sum()), examples + len(wide)
                    if examples >= PRECISION_EXAMPLES:
                        break
                return [different, examples]

            return scorer.cache.get("precision", key, count)

        own = [compare(tasks[number]) for number in scorer.group.assign([PRECISION_EXAMPLES] * len(tasks))]
        counts = [pair for part in scorer.group.all_gather(own) for pair in part]
        return sum(different for different, _ in counts), sum(examples for _, examples in counts)

    @property
    def finetuned_digests(self) -> dict[str, str]:
        """The digests of the fine-tuned weights, by task."""
        return {task: summary.digest for task, summary in self.summaries.items()}

    def lineage(self, tasks: Mapping[str, Task], splits: Sequence[str] = ("val", "test")) -> dict:
        """Return digests of all models, and of the heads and data of `tasks`: figures compare where these are equal."""
        family = self.family
        return {
            "model": family.identity,
            "pretrained": family.pretrained_digest,
            "finetuned": self.finetuned_digests,
            "recipes": {name: recipe_digest_of(checkpoint.path) for name, checkpoint in self.checkpoints.items()},
            "tasks": {name: task.definition for name, task in tasks.items()},
            "heads": {name: family.prepare(task) for name, task in tasks.items()},
            "data": {name: {split: family.data_digest(task, split) for split in splits} for name, task in tasks.items()},
            "heads_from": family.head_sources(tasks.values()),
        }

    def _scores(self, split: str, model: Callable[[str], Candidate]) -> dict[str, Score]:
        jobs = [Job(task, split, partial(_candidates, [model], name)) for name, task in self.tasks.items()]
        return {name: score for name, (score,) in zip(self.tasks, self.scorer.scores(jobs), strict=True)}

    def _merged(self, vectors: Mapping[str, TaskVector], name: str, with_examples: bool = False) -> Callable[[str], Candidate]:
        """Return a function from a task to its candidate; tasks that share a vector share the candidate."""
        by_identity = {id(vector): vector for vector in vectors.values()}

        def make(identity: int) -> Candidate:
            total = add_vector(self.family.pretrained, by_identity[identity])
            model = Memoized(total.outline, total.__getitem__)  # hashed, then used
            return Candidate(model, self._digest(model), name, with_examples)

        candidate = cache(make) if len(by_identity) == 1 else make  # each task's own is the scorer's to keep while it is used
        return lambda task: candidate(id(vectors[task]))

    def _digest(self, model: StateDict) -> str:
        """Return the digest of a model; entries that share their memory with the pre-trained one are not hashed again."""
        shared = {key: leaf.data_ptr() == self.family.pretrained[key].data_ptr() for key, leaf in model.items()}
        return combined_digest(
            self.family.pretrained_digests[key] if shared[key] else entry_digest(key, leaf) for key, leaf in model.items()
        )

    def _finetuned(self, task: str) -> Candidate:
        return Candidate(self.checkpoints[task], self.summaries[task].digest, "the fine-tuned model")

    @cached_property
    def _pretrained(self) -> Candidate:
        return Candidate(self.family.pretrained, self.family.pretrained_digest, "the pre-trained model")


def _summaries(scorer: Scorer, checkpoints: Mapping[str, Checkpoint]) -> dict[str, ContentSummary]:
    """Return the summary of each checkpoint, which one process of the group reads."""
    names, sizes = list(checkpoints), [byte_size(checkpoint) for checkpoint in checkpoints.values()]
    own = {names[number]: scorer.cache.summary(checkpoints[names[number]]) for number in scorer.group.assign(sizes)}
    gathered = {name: summary for part in scorer.group.all_gather(own) for name, summary in part.items()}
    return {name: gathered[name] for name in names}


def _candidates(models: list[Callable[[str], Candidate]], task: str) -> list[Candidate]:
    return [model(task) for model in models]


def accuracies(scores: Mapping[str, Score]) -> dict[str, float]:
    """Return the accuracy of each score."""
    return {task: score.accuracy for task, score in scores.items()}
