"""The one evaluation loop: how many examples of a task's split each of several candidates gets right, in one pass."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from src.evaluation.cache import Cache
from src.evaluation.examples import decode, encode
from src.models.family import ModelFamily, Predictor, TaskLike
from src.runtime.distributed import SINGLE, ProcessGroup
from src.runtime.progress import SILENT, Progress
from src.state_dict import StateDict


@dataclass(frozen=True)
class Score:
    """A score: `right` of `count` examples are answered correctly.

    right: the sum of the examples' scores, each 0 to 1.
    squares: the sum of their squares; by default that of scores that are 0 or 1.
    examples: the score of each, (count,), in order, where the candidate asks for them.
    """

    right: float
    count: int
    squares: float | None = None
    examples: np.ndarray | None = field(default=None, compare=False, repr=False)

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
        """Return right, count and accuracy, and what else there is, as JSON values."""
        squares = {} if self.squares is None else {"squares": self.squares}
        examples = {} if self.examples is None else {"examples": encode(self.examples)}
        return {"right": self.right, "count": self.count, "accuracy": self.accuracy, **squares, **examples}


@dataclass(frozen=True, eq=False)
class Candidate:
    """Weights to be scored.

    digest: of the weights.
    name: for progress reports.
    with_examples: whether its `Score` has the scores of single examples.
    """

    weights: StateDict
    digest: str
    name: str
    with_examples: bool = False


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
        by_example: list[list[np.ndarray]] = [[] for _ in candidates]
        for span in self.family.spans(task, split):
            keys = [[*key, candidate.digest, span.start, span.stop] for candidate in candidates]
            sums = [self.cache.find("scores", each) for each in keys]
            examples = [self._examples(candidate, each, len(span)) for candidate, each in zip(candidates, keys)]
            missing = [number for number, candidate in enumerate(candidates)
                       if sums[number] is None or (candidate.with_examples and examples[number] is None)]  # fmt: skip
            for number, scores in zip(missing, self._compute([candidates[n] for n in missing], task, split, span)):
                sums[number], examples[number] = _sums(scores), scores
                self.cache.keep("scores", keys[number], sums[number])
                if candidates[number].with_examples:
                    self.cache.keep("examples", keys[number], encode(scores))
                computed.add(number)
            totals = [total.plus(value, len(span)) for total, value in zip(totals, sums)]
            for found, own in zip(by_example, examples):
                found.append(own)
            if len(missing) < len(candidates):
                cached = (len(candidates) - len(missing)) * len(span)
                self.progress.report(f"reading cached scores of {_names(candidates)} on {task.name} ({split})", cached)
        self.computed += len(computed)
        return [replace(total, examples=np.concatenate(found)) if candidate.with_examples else total
                for candidate, total, found in zip(candidates, totals, by_example)]  # fmt: skip

    def _examples(self, candidate: Candidate, key: list, count: int) -> np.ndarray | None:
        """Return the kept scores of a span's examples; None if there are none, or the candidate does not ask for them."""
        text = self.cache.find("examples", key) if candidate.with_examples else None
        try:
            scores = decode(text) if isinstance(text, str) else None
        except ValueError:  # as with any file of the cache that cannot be read
            return None
        return scores if scores is not None and len(scores) == count else None

    def _compute(self, candidates: list[Candidate], task: TaskLike, split: str, span: range) -> list[np.ndarray]:
        """Return each candidate's scores of the examples of a span."""
        if not candidates:
            return []
        predictors = [self._predictor(candidate) for candidate in candidates]
        found: list[list[np.ndarray]] = [[] for _ in candidates]
        for batch in self.family.batches(task, split, self.batch_size, span):
            scores = [predictor.scores(batch).double() for predictor in predictors]  # on a GPU, queued before any is read
            for own, each in zip(found, scores):
                own.append(each.cpu().numpy())
            self.progress.report(f"scoring {_names(candidates)} on {task.name} ({split})", len(batch) * len(candidates))
        return list(map(np.concatenate, found))

    def _predictor(self, candidate: Candidate) -> Predictor:
        """Return the candidate's predictor, made once for all jobs in a row that score it."""
        if id(candidate) not in self._predictors:
            self._predictors[id(candidate)] = candidate, self.family.predictor(candidate.weights)
        return self._predictors[id(candidate)][1]


def _sums(scores: np.ndarray) -> int | list[float]:
    """Return the sum of scores, and that of their squares where it is another."""
    right, squares = math.fsum(scores), math.fsum(np.square(scores))
    return int(right) if right == squares else [right, squares]


def _names(candidates: Sequence[Candidate]) -> str:
    more = f" and {len(candidates) - 1} more" if len(candidates) > 1 else ""
    return candidates[0].name + more
