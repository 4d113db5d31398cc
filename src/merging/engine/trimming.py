"""Keep the largest entries of each task vector: an exact threshold over the whole vector, found by counting, or of one matrix.

Magnitudes of floating-point numbers are ordered as their bit patterns are, so the threshold is found 12 bits at a
time: one pass over the stream counts the leading 12 bits, the next the following 12 bits of those that share the
right beginning. It is exact to the bit and holds 4,096 counters a task, whatever the model's size.
"""

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.edits import Trim
from src.merging.engine.inputs import MergeInputs

DIGIT = 12


def check_percentage(k: float, name: str) -> None:
    """Raise UserError unless `k` is a percentage in (0, 100], or a fraction in (0, 1), which means the same."""
    if not isinstance(k, int | float) or isinstance(k, bool) or not 0 < k <= 100:
        raise UserError(
            f"method.k of {name} is the percentage of entries to keep, above 0 and up to 100 (below 1 it is a fraction); got {k}"
        )


def trimmed(inputs: MergeInputs, k: float) -> MergeInputs:
    """Return the inputs with all but the `k` percent largest entries of each task vector counting as zero (ties are kept)."""
    if k == 100:
        return inputs
    trims = inputs.memo.setdefault("trims", {})  # the same edits keep the same entries
    if (inputs.edits, k) not in trims:
        trims[inputs.edits, k] = Trim(magnitude_thresholds(inputs, k))
    return inputs.edited(trims[inputs.edits, k])


def magnitude_thresholds(inputs: MergeInputs, k: float) -> Tensor:
    """Return (tasks,) the `d - int(d * k%)`-th smallest magnitude of each task's d entries; 0 where that is none."""
    rank = inputs.size - int(inputs.size * kept_share(k))
    dtypes = {leaf.dtype for leaf in inputs.outline.values()}
    width = torch.finfo(max(dtypes, key=lambda dtype: dtype.itemsize)).bits
    integers, floats = {32: (torch.int32, torch.float32), 64: (torch.int64, torch.float64)}[width]
    if rank == 0:
        return torch.zeros(len(inputs.tasks), dtype=floats)
    zeros = inputs.size - sum(leaf.numel() for key, leaf in inputs.outline.items() if inputs.changed(key))
    leading = torch.zeros(len(inputs.tasks), 1, dtype=integers, device=inputs.device)  # bits of the thresholds
    ranks = [rank] * len(inputs.tasks)  # among the entries that share those bits
    high = width
    while high:
        low = max(high - DIGIT, 0)
        counts = _count(inputs, floats, integers, leading, high, low)
        for row, count in enumerate(counts):
            if leading[row] == 0:
                count[0] += zeros
            below = count.cumsum(0)
            digit = int(torch.searchsorted(below, ranks[row]))
            ranks[row] -= int(below[digit - 1]) if digit else 0
            leading[row] = leading[row] << (high - low) | digit
        high = low
    return leading[:, 0].cpu().view(floats)


def largest_entries(stack: Tensor, count: int) -> Tensor:
    """Return the `count` largest entries of each matrix of a stack, (tasks, m, n), ties included; the others are zero."""
    magnitudes = stack.abs().flatten(1)
    size = magnitudes.shape[1]
    if count >= size:
        return stack
    thresholds = torch.stack([row.kthvalue(size - count + 1).values for row in magnitudes])
    return torch.where(stack.abs() >= thresholds[:, None, None], stack, 0.0)


def kept_share(k: float) -> float:
    """Return the share that a percentage k is, which below 1 is one already."""
    return k if k < 1 else k / 100


def _count(inputs: MergeInputs, floats: torch.dtype, integers: torch.dtype, leading: Tensor, high: int, low: int) -> Tensor:
    """Return (tasks, 2**(high - low)) how many magnitudes begin with the bits `leading` and go on, down to bit `low`, as each."""
    size = 2 ** (high - low)
    first = leading << (high - low)
    total = torch.zeros(len(inputs.tasks), size, dtype=torch.int64)

    def visit(stack: Tensor) -> Tensor:
        digits = stack.to(floats).abs_().view(integers).bitwise_right_shift_(low)
        # what begins otherwise falls into a bin at either end; counting it is faster than leaving it out
        digits.sub_(first).clamp_(-1, size).add_(1)
        return torch.stack([torch.bincount(row, minlength=size + 2)[1:-1] for row in digits])

    for counts in inputs.scan_together(visit):
        total += counts.cpu()
    return total
