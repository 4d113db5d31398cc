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
    """A score: `right` of `count` examples are answered correctly.

    right: the sum of the examples' scores, each 0 to 1.
    squares: the sum of their squares; by default that of scores that are 0 or 1.
    """

    right: float
    count: int
    squares: float | None = None

    @property
    def accuracy(self) -> float:
        """The mean score, 0 to 1: of scores that are 0 or 1, the share of examples answered correctly."""
        return self.right / self.count

    @property
    def variance(self) -> float:
        """The sampling variance of the accuracy."""
        within = 0 if self.squares is None else (self.right - self.squares) / self.count
        return (self.accuracy * (1 - self.accuracy) - within) / self.count

    def plus(self, sums: int | list[float], count: int) -> "Score":
        """Return the score of `count` further examples, too: how many are right, or the sums of scores and of squares."""
        right, squares = (sums, None) if isinstance(sums, int) else sums
        if squares is None and self.squares is None:
            return Score(self.right + right, self.count + count)
        own = self.right if self.squares is None else self.squares
        return Score(self.right + right, self.count + count, own + (right if squares is None else squares))

    def record(self) -> dict:
        """Return right, count and accuracy as JSON values."""
        squares = {} if self.squares is None else {"squares": self.squares}
        return {"right": self.right, "count": self.count, "accuracy": self.accuracy, **squares}


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
        totals, computed = [Score(0, 0) for _ in candidates], set()
        for span in self.family.spans(task, split):
            keys = [[*key, candidate.digest, span.start, span.stop] for candidate in candidates]
            sums = [self.cache.find("scores", each) for each in keys]
            missing = [number for number, value in enumerate(sums) if value is None]
            for number, value in zip(missing, self._sums([candidates[n] for n in missing], task, split, span)):
                sums[number] = value
                self.cache.keep("scores", keys[number], value)
                computed.add(number)
            totals = [total.plus(value, len(span)) for total, value in zip(totals, sums)]
            if len(missing) < len(candidates):
                cached = (len(candidates) - len(missing)) * len(span)
                self.progress.report(f"reading cached scores of {_names(candidates)} on {task.name} ({split})", cached)
        self.computed += len(computed)
        return totals

    def _sums(self, candidates: list[Candidate], task: TaskLike, split: str, span: range) -> list[int | list[float]]:
        """Return the sum of each candidate's scores on a span, and that of their squares where it is another."""
        if not candidates:
            return []
        predictors = [self._predictor(candidate) for candidate in candidates]
        totals = [[0.0, 0.0] for _ in candidates]
        for batch in self.family.batches(task, split, self.batch_size, span):
            scores = [predictor.scores(batch).double() for predictor in predictors]  # on a GPU, queued before any is read
            for total, each in zip(totals, scores):
                total[0] += each.sum().item()
                total[1] += each.square().sum().item()
            self.progress.report(f"scoring {_names(candidates)} on {task.name} ({split})", len(batch) * len(candidates))
        return [int(right) if right == squares else [right, squares] for right, squares in totals]

    def _predictor(self, candidate: Candidate) -> Predictor:
        """Return the candidate's predictor, made once for all jobs in a row that score it."""
        if id(candidate) not in self._predictors:
            self._predictors[id(candidate)] = candidate, self.family.predictor(candidate.weights)
        return self._predictors[id(candidate)][1]


def _names(candidates: Sequence[Candidate]) -> str:
    more = f" and {len(candidates) - 1} more" if len(candidates) > 1 else ""
    return candidates[0].name + more
