"""Keep the largest entries of each task vector: an exact threshold over the whole vector, found by counting.

Magnitudes of floating-point numbers are ordered as their bit patterns are, so the threshold is found 12 bits at a
time: one pass over the stream counts the leading 12 bits, the next the following 12 bits of those that share the
right beginning. It is exact to the bit and holds 4,096 counters a task, whatever the model's size.
"""

from dataclasses import replace

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.inputs import Ingredients

DIGIT = 12


def check_percentage(k: float, name: str) -> None:
    """Raise UserError unless `k` is a percentage in (0, 100], or a fraction in (0, 1), which means the same."""
    if not isinstance(k, int | float) or isinstance(k, bool) or not 0 < k <= 100:
        raise UserError(f"{name}.k is the percentage of entries kept, in (0, 100] (a number below 1 is a fraction); got {k}")


def trimmed(given: Ingredients, k: float) -> Ingredients:
    """`given` with all but the `k` percent largest entries of each task vector counting as zero (ties are kept)."""
    if k == 100:
        return given
    known = given.shared.setdefault("floors", {})
    if k not in known:
        known[k] = magnitude_floors(given, k)
    return replace(given, floors=known[k])


def magnitude_floors(given: Ingredients, k: float) -> Tensor:
    """(tasks,) the `d - int(d * k%)`-th smallest magnitude of each task's d entries; 0 where that is none."""
    share = k if k < 1 else k / 100
    rank = given.size - int(given.size * share)
    dtypes = {leaf.dtype for leaf in given.outline.values()}
    width = torch.finfo(max(dtypes, key=lambda dtype: dtype.itemsize)).bits
    integers, floats = {32: (torch.int32, torch.float32), 64: (torch.int64, torch.float64)}[width]
    if rank == 0:
        return torch.zeros(len(given.tasks), dtype=floats)
    zeros = given.size - sum(leaf.numel() for key, leaf in given.outline.items() if given.changed(key))
    found = torch.zeros(len(given.tasks), 1, dtype=integers, device=given.device)  # the thresholds' leading bits
    left = [rank] * len(given.tasks)  # their ranks among the entries that share those bits
    high = width
    while high:
        low = max(high - DIGIT, 0)
        counts = _count(given, floats, integers, found, high, low)
        for row, count in enumerate(counts):
            if found[row] == 0:
                count[0] += zeros
            below = count.cumsum(0)
            digit = int(torch.searchsorted(below, left[row]))
            left[row] -= int(below[digit - 1]) if digit else 0
            found[row] = found[row] << (high - low) | digit
        high = low
    return found[:, 0].cpu().view(floats)


def _count(given: Ingredients, floats: torch.dtype, integers: torch.dtype, found: Tensor, high: int, low: int) -> Tensor:
    """(tasks, 2**(high - low)) how many magnitudes start with the bits `found` and go on, down to bit `low`, as each."""
    size = 2 ** (high - low)
    first = found << (high - low)
    total = torch.zeros(len(given.tasks), size, dtype=torch.int64)

    def visit(stack: Tensor) -> Tensor:
        digits = stack.to(floats).abs_().view(integers).bitwise_right_shift_(low)
        # what starts otherwise falls into a bin at either end; counting it is faster than leaving it out
        digits.sub_(first).clamp_(-1, size).add_(1)
        return torch.stack([torch.bincount(row, minlength=size + 2)[1:-1] for row in digits])

    for counts in given.scan(visit):
        total += counts.cpu()
    return total
