"""Order statistics of functions of whole task vectors, exact.

Floating-point numbers are ordered as integers made of their bits are. `counted` finds the one of a given rank 12 bits at a
time: one pass over the stream counts the leading 12 bits, the next the following 12 bits of those that share the right
beginning. It holds 4,096 counters a task, whatever the model's size. `selected` is for functions that take long: a sample
brackets the number, one pass counts what is below and keeps what is between, and where the sample misled, it counts.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

DIGIT = 12
SAMPLE = 2**24  # numbers of all tasks, at most
LEAST_STEP = 37  # between the entries of a sample; a prime, so that these are not in the same columns of each row
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
T = TypeVar("T")


class Scan(Protocol):
    """Yields what `visit` returns of integers, (tasks, n), which it may change, until all were visited, or every `step`-th."""

    def __call__(self, visit: Callable[[Tensor], T], step: int = 1) -> Iterable[T]: ...


def counted(scan: Scan, tasks: int, ranks: Sequence[int], zeros: int, dtype: torch.dtype) -> Tensor:
    """Return the integers of given ranks among each task's, (tasks, ranks), on the CPU; rank 1 is the smallest.

    zeros: how many there are of each task's that are zero and are not visited.
    dtype: of the integers.
    """
    found = torch.zeros(tasks, len(ranks), dtype=dtype)  # the leading bits
    left = torch.tensor(ranks).expand(tasks, -1).clone()  # ranks among those that share these bits
    high = bits = torch.iinfo(dtype).bits
    while high:
        low = max(high - DIGIT, 0)
        digits = 2 ** (high - low)
        first = found << (high - low) if high < bits else torch.full_like(found, -digits // 2)  # with the sign come negative ones
        counts = _count(scan, first, low, digits)
        for where in ((task, number) for task in range(tasks) for number in range(len(ranks))):
            start = int(first[where])
            if start <= 0 < start + digits:
                counts[where][-start] += zeros
            below = counts[where].cumsum(0)
            digit = int(torch.searchsorted(below, left[where]))
            left[where] -= below[digit - 1] if digit else 0
            found[where] = start + digit
        high = low
    return found


def selected(scan: Scan, tasks: int, ranks: Sequence[int], size: int, zeros: int, dtype: torch.dtype) -> Tensor:
    """Return what `counted` does.

    size: how many there are of each task's, with those that are not visited.
    """
    step = max(tasks * size // SAMPLE, LEAST_STEP) | 1
    samples = torch.cat([torch.empty(tasks, 0, dtype=dtype), *scan(lambda integers: integers.cpu().clone(), step)], 1)
    brackets = [_Bracket.of(sample, rank, size - zeros, zeros) for sample in samples.sort(1).values for rank in ranks]

    def visit(integers: Tensor) -> list[_Part]:
        return [bracket.part(row) for row, bracket in zip((row for row in integers for _ in ranks), brackets)]

    parts = zip(*scan(visit))
    found = [bracket.find(of_bracket, rank, zeros) for bracket, of_bracket, rank in zip(brackets, parts, list(ranks) * tasks)]
    if not found or None in found:
        return counted(scan, tasks, ranks, zeros, dtype)
    return torch.tensor(found, dtype=dtype).view(tasks, len(ranks))


class _Part(NamedTuple):
    """Of some integers: how many are below a bracket, how many are its one number, and those that are between its ends."""

    below: int
    equal: int
    between: Tensor


class _Bracket(NamedTuple):
    """Two integers between which one is searched; or one, of which there are many.

    is_upper: whether less than half of all integers are above.
    """

    low: int
    high: int
    is_upper: bool

    @classmethod
    def of(cls, sample: Tensor, rank: int, visited: int, zeros: int) -> "_Bracket":
        """Return the bracket of the integer of a rank: six standard deviations of its place in the sample, or more, either way.

        sample: of the visited integers, ascending.
        """
        limits, share = torch.iinfo(sample.dtype), len(sample) / max(visited, 1)
        negative = int((sample < 0).sum())

        def at(place: float) -> int:
            if negative < place <= negative + zeros * share:
                return 0
            place -= zeros * share if place > negative else 0
            return limits.min if place < 0 else limits.max if place >= len(sample) else int(sample[int(place)])

        margin = 3 * len(sample) ** 0.5 + 1
        return cls(at(rank * share - margin), at(rank * share + margin), 2 * rank > visited + zeros)

    def part(self, row: Tensor) -> _Part:
        """Return what `find` needs of some integers, (n,)."""
        if self.low == self.high:
            return _Part(int((row < self.low).count_nonzero()), int((row == self.low).count_nonzero()), row[:0].cpu())
        if self.is_upper:  # of the two ways the one that picks fewer
            above = row.masked_select(row > self.low)
            return _Part(len(row) - len(above), 0, above[above < self.high].cpu())
        below = row.masked_select(row < self.high)
        between = below[below > self.low]
        return _Part(len(below) - len(between), 0, between.cpu())

    def find(self, parts: Sequence[_Part], rank: int, zeros: int) -> int | None:
        """Return the integer of a rank among all parts' and zeros; None if it is not in the bracket."""
        left = rank - sum(part.below for part in parts) - zeros * (self.low > 0 or self.low == 0 != self.high)
        if self.low == self.high:
            return self.low if 0 < left <= sum(part.equal for part in parts) + zeros * (self.low == 0) else None
        between = torch.cat([part.between for part in parts])
        negative, zeros_between = int((between < 0).sum()), zeros * (self.low < 0 < self.high)
        if negative < left <= negative + zeros_between:
            return 0
        left -= zeros_between * (left > negative)
        return int(between.kthvalue(left).values) if 0 < left <= len(between) else None


def ordered(values: Tensor) -> Tensor:
    """Return integers of the bits of numbers that are ordered as these are; in their memory, which it changes."""
    bits = values.view(INTEGERS[values.dtype])
    return bits.bitwise_xor_((bits >> torch.iinfo(bits.dtype).bits - 1).bitwise_and_(torch.iinfo(bits.dtype).max))


def from_ordered(integers: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the numbers, of a floating-point dtype, whose integers `ordered` returns."""
    return ordered(integers.clone().view(dtype)).view(dtype)


def _count(scan: Scan, first: Tensor, low: int, size: int) -> Tensor:
    """Return how many integers go on, down to bit `low`, as each of the `size` numbers from `first`, (tasks, ranks, size)."""
    total = torch.zeros(*first.shape, size, dtype=torch.int64)
    starts = first.tolist()

    def visit(integers: Tensor) -> Tensor:
        digits = integers.bitwise_right_shift_(low)
        # what begins otherwise falls into a bin at either end; counting it is faster than leaving it out
        counts = []
        for row, of_ranks in zip(digits, starts):
            by_start = {start: torch.bincount(row.sub(start - 1).clamp_(0, size + 1), minlength=size + 2)[1:-1]
                        for start in set(of_ranks)}  # fmt: skip
            counts += [by_start[start] for start in of_ranks]
        return torch.stack(counts)

    for counts in scan(visit):
        total += counts.view_as(total).cpu()
    return total
