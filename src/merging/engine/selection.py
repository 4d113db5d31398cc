"""Order statistics of functions of whole task vectors, exact, in one pass and a sample (as Floyd and Rivest's selection).

The sample brackets the number of a rank; the pass counts what is below the bracket, at its ends, and keeps what is between them,
about a hundredth of all. Where the sample misled, the number is counted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock

import torch
from torch import Tensor

from src.merging.engine.order_statistics import RUN, Scan, counted
from src.merging.engine.threads import parallel_map

LEAST_SAMPLE = 2**23  # numbers of all tasks, about, of up to 3 billion; of more, as many as make sample and brackets alike
MOST_ROOM = 2**29  # numbers in the brackets of all tasks, of which half are expected
LEAST_STEP = 37  # between the runs of a sample
FEWEST_RUNS = 64  # that show how much they differ
FEWEST_BETWEEN = 64  # numbers of a sample in a bracket, for which there is room at least
DEVIATIONS = 6  # of a number's place in the sample, either way
CPU = torch.device("cpu")


def selected(scan: Scan, tasks: int, ranks: Sequence[int], size: int, zeros: int, dtype: torch.dtype) -> Tensor:
    """Return the integers of given ranks among each task's, (tasks, ranks), on the CPU; rank 1 is the smallest.

    scan: of integers of `dtype`, (tasks, n).
    size: how many there are of each task's, with those that are zero and are not visited, of which there are `zeros`.
    """
    total = tasks * size
    sample_size = max(LEAST_SAMPLE, int(4 * total ** (2 / 3)))
    # a prime, so that runs are not in the same columns of each row
    step = _prime_from(max(total // sample_size, LEAST_STEP))
    samples = _gathered(scan(lambda integers: integers.cpu().clone(), step), tasks, dtype)
    brackets = list(parallel_map(lambda sample: brackets_of(sample, ranks, size - zeros, zeros), samples, CPU))
    del samples
    if sum(len(bracket.kept) for of_task in brackets for bracket in of_task) > MOST_ROOM:
        return counted(scan, tasks, ranks, zeros, dtype)

    def visit(integers: Tensor) -> None:
        for row, of_row in zip(integers, brackets):
            for bracket in of_row:
                bracket.add(row)

    for _ in scan(visit):
        pass

    def numbers(of_task: list[Bracket]) -> list[int | None]:
        return [bracket.number(rank, zeros) for bracket, rank in zip(of_task, ranks)]

    found = list(parallel_map(numbers, brackets, CPU))
    if any(None in of_task for of_task in found):
        del brackets
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
        """Return the integer at a place, from 0, among the sample's and as many zeros as it would have of those not visited."""
        if negative <= place < negative + zeros * share:
            return 0
        place -= zeros * share if place >= negative else 0
        return limits.min if place < 0 else limits.max if place >= len(ascending) else int(ascending[int(place)])

    def bracket(rank: int) -> Bracket:
        place = (rank - 1) * share
        margin = DEVIATIONS * _standard_error(sample, at(place)) + 1
        low, high = at(place - margin), at(place + margin)
        between = int(torch.searchsorted(ascending, high) - torch.searchsorted(ascending, low, right=True))
        room = min(visited, int(2 * max(between, FEWEST_BETWEEN) / share)) if len(sample) and low < high else 0
        return Bracket(low, high, torch.empty(room, dtype=sample.dtype))

    return [bracket(rank) for rank in ranks]


@dataclass(eq=False)
class Bracket:
    """Two integers, which may be one, at or between which an order statistic is searched, and what was added of those.

    kept: room for the integers between, twice what the sample lets expect; the memory of what is not used is never touched.
        (A small tensor of each slice would be scattered over the allocator's memory, which then cannot be used again as a whole.)
    below, at_low, between, at_high: how many were added.
    """

    low: int
    high: int
    kept: Tensor
    below: int = 0
    at_low: int = 0
    between: int = 0
    at_high: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def add(self, row: Tensor) -> None:
        """Count and keep some integers, (n,); several threads at once may."""
        above = _ones(torch.gt, row, self.low)
        at_low = _count(_ones(torch.eq, row, self.low))
        below, at_high, between = len(row) - _count(above) - at_low, 0, row[:0]
        if self.low < self.high:
            at_high = _count(_ones(torch.eq, row, self.high))
            between = row.masked_select(above.mul_(_ones(torch.lt, row, self.high)).to(torch.bool)).cpu()
        with self._lock:
            start = self.between
            self.below, self.at_low, self.at_high = self.below + below, self.at_low + at_low, self.at_high + at_high
            self.between += len(between)
            if self.between <= len(self.kept):
                self.kept[start : self.between] = between

    def number(self, rank: int, zeros: int) -> int | None:
        """Return the integer of a rank among all that were added and zeros; None if it is outside, or was not kept."""
        left = rank - self.below - zeros * (self.low > 0)
        if left <= 0:
            return None
        at_low = self.at_low + zeros * (self.low == 0)
        if left <= at_low:
            return self.low
        left -= at_low
        zeros_between = zeros * (self.low < 0 < self.high)
        if left > self.between + zeros_between:
            left -= self.between + zeros_between
            return self.high if left <= self.at_high + zeros * (self.high == 0 != self.low) else None
        if self.between > len(self.kept):
            return None
        between = self.kept[: self.between]
        negative = int((between < 0).sum())
        if negative < left <= negative + zeros_between:
            return 0
        return int(between.kthvalue(left - zeros_between * (left > negative)).values)


def _gathered(parts: Iterable[Tensor], tasks: int, dtype: torch.dtype) -> Tensor:
    """Return parts, (tasks, n) each, side by side, in one tensor that grows (for why, see `Bracket.kept`)."""
    whole, size = torch.empty(tasks, RUN, dtype=dtype), 0
    for part in parts:
        end = size + part.shape[1]
        while end > whole.shape[1]:
            whole = torch.cat([whole, torch.empty_like(whole)], 1)
        whole[:, size:end] = part
        size = end
    return whole[:, :size]


def _standard_error(sample: Tensor, limit: int) -> float:
    """Return the standard error, or more, of how many integers of a systematic sample, (n,), are below a limit, or not above it.

    Neighbouring runs are of one layer, so their differences say how far a run is from those that it stands for.
    """
    count = len(sample) // RUN
    if count < FEWEST_RUNS:
        return 0.5 * len(sample) ** 0.5  # as if each number were drawn by itself, half of them below
    runs = sample[: count * RUN].view(count, RUN)
    differences = (compare(runs, limit).sum(1, dtype=torch.float64).diff() for compare in (torch.lt, torch.le))
    return max(float(each.square().mean() / 2 * count) ** 0.5 for each in differences)


def _ones(comparison: Callable[..., Tensor], row: Tensor, limit: int) -> Tensor:
    """Return ones where a comparison holds, else zeros, as integers: booleans take four times as long to write on a CPU."""
    return comparison(row, limit, out=torch.empty_like(row))


def _count(ones: Tensor) -> int:
    return int(ones.sum(dtype=ones.dtype))


def _prime_from(least: int) -> int:
    """Return the smallest prime that is at least `least`."""
    return next(n for n in range(max(least, 2), 2 * least + 2) if all(n % d for d in range(2, int(n**0.5) + 1)))
