"""Order statistics of functions of whole task vectors, exact, in one pass and a sample.

The sample brackets the number of a rank; the pass counts what is below the bracket and keeps what is in it, some thousandths of
all. Where the sample misled, the number is counted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor

from src.merging.engine.order_statistics import Scan, counted

SAMPLE = 2**23  # numbers of all tasks, at most
LEAST_STEP = 37  # between the runs of a sample; a prime, so that these are not in the same columns of each row
RUN = 256  # numbers side by side in a sample, which are like one another
FEWEST_RUNS = 64  # that show how much they differ
DEVIATIONS = 6  # of the number's place in the sample, either way


def selected(scan: Scan, tasks: int, ranks: Sequence[int], size: int, zeros: int, dtype: torch.dtype) -> Tensor:
    """Return what `order_statistics.counted` does.

    size: how many integers there are of each task's, with those that are zero and are not visited.
    """
    step = max(tasks * size // SAMPLE, LEAST_STEP) | 1
    samples = _gathered(scan(lambda integers: integers.cpu().clone(), step), tasks, dtype)
    brackets = [brackets_of(sample, ranks, size - zeros, zeros) for sample in samples]
    del samples

    def visit(integers: Tensor) -> None:
        for row, of_row in zip(integers, brackets):
            for bracket in of_row:
                bracket.add(row)

    for _ in scan(visit):
        pass
    found = [[bracket.number(rank, zeros) for bracket, rank in zip(of_task, ranks)] for of_task in brackets]
    if any(None in of_task for of_task in found):
        return counted(scan, tasks, ranks, zeros, dtype)
    return torch.tensor(found, dtype=dtype).view(tasks, len(ranks))


def brackets_of(sample: Tensor, ranks: Sequence[int], visited: int, zeros: int) -> list["Bracket"]:
    """Return the bracket of each rank of a task.

    sample: of the visited integers, (n,), as they were found.
    visited, zeros: how many are visited, and how many are zero and are not.
    """
    ascending = sample.sort().values
    limits, share = torch.iinfo(sample.dtype), len(sample) / max(visited, 1)
    negative = int(torch.searchsorted(ascending, 0))

    def at(place: float) -> int:
        """Return the integer at a place among the sample's and as many zeros as it would have of those that are not visited."""
        if negative < place <= negative + zeros * share:
            return 0
        place -= zeros * share if place > negative else 0
        return limits.min if place < 0 else limits.max if place >= len(ascending) else int(ascending[int(place)])

    def bracket(rank: int) -> Bracket:
        place = rank * share
        margin = DEVIATIONS * _deviation(sample, at(place)) + 1
        low, high = at(place - margin), at(place + margin)
        between = int(torch.searchsorted(ascending, high) - torch.searchsorted(ascending, low, right=True))
        room = min(visited, int(2 * max(between, FEWEST_RUNS) / share)) if len(sample) and low < high else 0
        return Bracket(low, high, torch.empty(room, dtype=sample.dtype))

    return [bracket(rank) for rank in ranks]


@dataclass
class Bracket:
    """Two integers between which one is searched; or one, of which there are many.

    kept: room for the integers between, more than the sample lets expect; the memory of what is not used is never touched.
        Small tensors would lie scattered in the memory that passes free and use again, and keep it from that.
    below, between, equal: how many were below or between, or were the only one.
    """

    low: int
    high: int
    kept: Tensor
    below: int = 0
    between: int = 0
    equal: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def add(self, row: Tensor) -> None:
        """Count and keep some integers, (n,); several threads at once may."""
        if self.low == self.high:
            below, equal, inside = _count(torch.lt, row, self.low), _count(torch.eq, row, self.low), row[:0].cpu()
        else:
            above = _ones(torch.gt, row, self.low)
            below, equal = len(row) - int(above.sum(dtype=above.dtype)), 0
            if self.high < torch.iinfo(row.dtype).max:
                above.mul_(_ones(torch.lt, row, self.high))
            inside = row.masked_select(above.to(torch.bool)).cpu()
        with self._lock:
            start = self.between
            self.below, self.equal, self.between = self.below + below, self.equal + equal, start + len(inside)
            if self.between <= len(self.kept):
                self.kept[start : self.between] = inside

    def number(self, rank: int, zeros: int) -> int | None:
        """Return the integer of a rank among all that were added and zeros; None if it is not in the bracket, or not kept."""
        left = rank - self.below - zeros * (self.low > 0 or self.low == 0 != self.high)
        if self.low == self.high:
            return self.low if 0 < left <= self.equal + zeros * (self.low == 0) else None
        if self.between > len(self.kept):
            return None
        between = self.kept[: self.between]
        negative, zeros_between = int((between < 0).sum()), zeros * (self.low < 0 < self.high)
        if negative < left <= negative + zeros_between:
            return 0
        left -= zeros_between * (left > negative)
        return int(between.kthvalue(left).values) if 0 < left <= len(between) else None


def _gathered(parts: Iterable[Tensor], tasks: int, dtype: torch.dtype) -> Tensor:
    """Return parts, (tasks, n) each, side by side, in one tensor that grows: see `Bracket.kept`."""
    whole, size = torch.empty(tasks, RUN, dtype=dtype), 0
    for part in parts:
        end = size + part.shape[1]
        while end > whole.shape[1]:
            whole = torch.cat([whole, torch.empty_like(whole)], 1)
        whole[:, size:end] = part
        size = end
    return whole[:, :size]


def _deviation(runs: Tensor, limit: int) -> float:
    """Return the standard deviation, or more, of how many integers of a sample, (n,), are below a limit."""
    count = len(runs) // RUN
    if count < FEWEST_RUNS:
        return 0.5 * len(runs) ** 0.5  # as if each were drawn by itself, half of them below
    below = (runs[: count * RUN].view(count, RUN) < limit).sum(1, dtype=torch.float64)
    return float(below.std()) * count**0.5


def _ones(comparison: Callable[..., Tensor], row: Tensor, limit: int) -> Tensor:
    """Return ones where a comparison holds, else zeros, as integers: booleans take four times as long to write on a CPU."""
    return comparison(row, limit, out=torch.empty_like(row))


def _count(comparison: Callable[..., Tensor], row: Tensor, limit: int) -> int:
    return int(_ones(comparison, row, limit).sum(dtype=row.dtype))
