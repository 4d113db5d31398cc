"""The one evaluation loop: how many examples of a task's split each of several candidates gets right, in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from src.evaluation.cache import Cache
from src.models.family import ModelFamily, Predictor, TaskLike
from src.runtime.distributed import ALONE, Team
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

    def record(self) -> dict:
        """As plain json values."""
        return {"right": self.right, "count": self.count, "accuracy": self.accuracy}


@dataclass(frozen=True, eq=False)
class Candidate:
    """Weights to be scored, known by their digest; `what` names them in reports."""

    weights: StateDict
    digest: str
    what: str


@dataclass(frozen=True, eq=False)
class Job:
    """One split of one task, and the candidates to be scored on it, which are made when their turn comes."""

    task: TaskLike
    split: str
    candidates: Callable[[], Sequence[Candidate]]


@dataclass
class Scorer:
    """Scores candidates, and asks the cache first: only what was never scored is computed, a span of examples at a time.

    team: the processes that share the jobs; fresh: how many scores this process computed rather than remembered.
    """

    family: ModelFamily
    cache: Cache
    batch_size: int
    report: Report
    team: Team = ALONE
    fresh: int = field(default=0, init=False)
    _ready: dict[int, tuple[Candidate, Predictor]] = field(default_factory=dict, init=False)

    def scores(self, jobs: Sequence[Job]) -> list[list[Score]]:
        """The scores of each job's candidates, in order. Each job is done by one process of the team."""
        sizes = [self.family.count(job.task, job.split) for job in jobs]
        mine = {number: self._scored(jobs[number]) for number in self.team.share(sizes)}
        self._ready.clear()
        everyone = {number: scores for part in self.team.gathered(mine) for number, scores in part.items()}
        return [everyone[number] for number in range(len(jobs))]

    def asked(self, task: TaskLike, split: str) -> list:
        """All that decides predictions on a split but the weights; a narrow precision rounds as its device does."""
        family = self.family
        precision = family.precision if family.precision == "fp32" else f"{family.precision} on {family.device.type}"
        return [family.identity, precision, family.prepare(task), task.name, split, family.data_digest(task, split)]

    def _scored(self, job: Job) -> list[Score]:
        family, task, split = self.family, job.task, job.split
        candidates = list(job.candidates())
        self._ready = {id(c): self._ready[id(c)] for c in candidates if id(c) in self._ready}
        asked = self.asked(task, split)
        totals, fresh = [[0, 0] for _ in candidates], set()
        for span in family.spans(task, split):
            keys = [[*asked, candidate.digest, span.start, span.stop] for candidate in candidates]
            counts = [self.cache.find("scores", key) for key in keys]
            missing = [number for number, count in enumerate(counts) if count is None]
            for number, right in zip(missing, self._count([candidates[n] for n in missing], task, split, span)):
                counts[number] = right
                self.cache.keep("scores", keys[number], right)
                fresh.add(number)
            for number, total in enumerate(totals):
                total[0] += counts[number]
                total[1] += len(span)
            if len(missing) < len(candidates):
                remembered = (len(candidates) - len(missing)) * len(span)
                self.report(f"remembering {_names(candidates)} on {task.name} ({split})", remembered)
        self.fresh += len(fresh)
        return [Score(*total) for total in totals]

    def _count(self, candidates: list[Candidate], task: TaskLike, split: str, span: range) -> list[int]:
        """How many of a span's examples each candidate gets right."""
        if not candidates:
            return []
        predictors = [self._predictor(candidate) for candidate in candidates]
        right = [0] * len(candidates)
        for batch in self.family.batches(task, split, self.batch_size, span):
            found = [(predict(batch) == batch.labels).sum() for predict in predictors]  # on a GPU, queued before any is read
            right = [before + int(more) for before, more in zip(right, found)]
            self.report(f"scoring {_names(candidates)} on {task.name} ({split})", len(batch.labels) * len(candidates))
        return right

    def _predictor(self, candidate: Candidate) -> Predictor:
        """Made once for all jobs in a row that score the candidate."""
        if id(candidate) not in self._ready:
            self._ready[id(candidate)] = candidate, self.family.predictor(candidate.weights)
        return self._ready[id(candidate)][1]


def _names(candidates: Sequence[Candidate]) -> str:
    more = f" and {len(candidates) - 1} more" if len(candidates) > 1 else ""
    return candidates[0].what + more
