"""Order statistics of functions of whole task vectors, exact.

Floating-point numbers are ordered as integers made of their bits are. `counted` finds the one of a given rank 12 bits at a
time: one pass over the stream counts the leading 12 bits, the next the following 12 bits of those that share the right
beginning. It holds 4,096 counters a task, whatever the model's size. `selection.selected` takes one pass.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

DIGIT = 12
RUN = 256  # numbers side by side in a sample, which are like one another
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
T = TypeVar("T")


class Scan(Protocol):
    """Yields what `visit` returns of integers, (tasks, n), which it may change, until all were visited; or one in `step`, those
    of large parameters in runs of about RUN."""

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
