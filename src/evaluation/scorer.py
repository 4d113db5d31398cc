"""The one evaluation loop: how many examples of a task's split each of several candidates gets right, in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from src.evaluation.cache import Cache
from src.models.family import ModelFamily, Predictor, TaskLike
from src.runtime.distributed import SINGLE, ProcessGroup
from src.runtime.progress import SILENT, Progress
from src.state_dict import StateDict


@dataclass(frozen=True)
class Score:
    """A score: `right` of `count` examples are predicted correctly."""

    right: int
    count: int

    @property
    def accuracy(self) -> float:
        """The share of examples predicted correctly, 0 to 1."""
        return self.right / self.count

    @property
    def variance(self) -> float:
        """The sampling variance of the accuracy."""
        return self.accuracy * (1 - self.accuracy) / self.count

    def record(self) -> dict:
        """Return right, count and accuracy as JSON values."""
        return {"right": self.right, "count": self.count, "accuracy": self.accuracy}


@dataclass(frozen=True, eq=False)
class Candidate:
    """Weights to be scored.

    digest: of the weights.
    name: for progress reports.
    """

    weights: StateDict
    digest: str
    name: str


@dataclass(frozen=True, eq=False)
class Job:
    """One split of one task, and the candidates to be scored on it, which are made when their turn comes."""

    task: TaskLike
    split: str
    candidates: Callable[[], Sequence[Candidate]]


@dataclass
class Scorer:
    """Scores candidates, and looks in the cache first: only what was never scored is computed, a span of examples at a time.

    group: processes that share the jobs.
    progress: listener, in examples.
    computed: number of scores that this process computed rather than found.
    """

    family: ModelFamily
    cache: Cache
    batch_size: int
    progress: Progress = SILENT
    group: ProcessGroup = SINGLE
    computed: int = field(default=0, init=False)
    _predictors: dict[int, tuple[Candidate, Predictor]] = field(default_factory=dict, init=False)

    def scores(self, jobs: Sequence[Job]) -> list[list[Score]]:
        """Return the scores of each job's candidates, in order. Each job is done by one process of the group."""
        sizes = [self.family.count(job.task, job.split) for job in jobs]
        own = {number: self._scores(jobs[number]) for number in self.group.assign(sizes)}
        self._predictors.clear()
        by_job = {number: scores for part in self.group.all_gather(own) for number, scores in part.items()}
        return [by_job[number] for number in range(len(jobs))]

    def key(self, task: TaskLike, split: str) -> list:
        """Return the cache key of a split: all that decides predictions but the weights; the device, too, if it rounds."""
        family = self.family
        precision = family.precision if family.precision == "fp32" else f"{family.precision} on {family.device.type}"
        return [family.identity, precision, family.prepare(task), task.name, split, family.data_digest(task, split)]

    def _scores(self, job: Job) -> list[Score]:
        task, split, candidates = job.task, job.split, list(job.candidates())
        self._predictors = {id(c): self._predictors[id(c)] for c in candidates if id(c) in self._predictors}
        key = self.key(task, split)
        totals, computed = [[0, 0] for _ in candidates], set()
        for span in self.family.spans(task, split):
            keys = [[*key, candidate.digest, span.start, span.stop] for candidate in candidates]
            counts = [self.cache.find("scores", each) for each in keys]
            missing = [number for number, count in enumerate(counts) if count is None]
            for number, right in zip(missing, self._count([candidates[n] for n in missing], task, split, span)):
                counts[number] = right
                self.cache.keep("scores", keys[number], right)
                computed.add(number)
            for number, total in enumerate(totals):
                total[0] += counts[number]
                total[1] += len(span)
            if len(missing) < len(candidates):
                cached = (len(candidates) - len(missing)) * len(span)
                self.progress.report(f"reading cached scores of {_names(candidates)} on {task.name} ({split})", cached)
        self.computed += len(computed)
        return [Score(*total) for total in totals]

    def _count(self, candidates: list[Candidate], task: TaskLike, split: str, span: range) -> list[int]:
        """Return how many of a span's examples each candidate gets right."""
        if not candidates:
            return []
        predictors = [self._predictor(candidate) for candidate in candidates]
        totals = [0] * len(candidates)
        for batch in self.family.batches(task, split, self.batch_size, span):
            right = [(predict(batch) == batch.labels).sum() for predict in predictors]  # on a GPU, queued before any is read
            totals = [total + int(more) for total, more in zip(totals, right)]
            self.progress.report(f"scoring {_names(candidates)} on {task.name} ({split})", len(batch.labels) * len(candidates))
        return totals

    def _predictor(self, candidate: Candidate) -> Predictor:
        """Return the candidate's predictor, made once for all jobs in a row that score it."""
        if id(candidate) not in self._predictors:
            self._predictors[id(candidate)] = candidate, self.family.predictor(candidate.weights)
        return self._predictors[id(candidate)][1]


def _names(candidates: Sequence[Candidate]) -> str:
    more = f" and {len(candidates) - 1} more" if len(candidates) > 1 else ""
    return candidates[0].name + more
