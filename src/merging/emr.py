"""EMR-Merging (Huang et al., NeurIPS 2024): elect one vector, mask it for each task, and rescale what the mask selects.

The elected vector has the sign of the sum of the task vectors (minus where that is 0) and, of the entries with that sign, the
largest magnitude. A task's mask selects where its own entry has the elected sign.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from src.compact.form import MASK, SCALE, Compact
from src.compact.packing import pack, packed_size
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Unscaled
from src.state_dict import Lazy


@dataclass(frozen=True)
class Elected:
    """What one pass over a parameter of all tasks makes.

    vector: the elected entries.
    masks: (tasks, ceil(n / 8)) packed.
    means: (2, tasks) mean magnitudes of each task's own entries, and of the elected ones that its mask selects; float64, on the
        CPU.
    """

    vector: Tensor
    masks: Tensor
    means: Tensor


@dataclass(frozen=True)
class EMR(Unscaled):
    """The largest entries of the elected signs, under a mask of each task, times one number a task.

    That number gives the masked vector the mean magnitude of the task's own, summed over parameters: a bias counts as much as a
    matrix.
    """

    per_task = True

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        changed = {key: leaf for key, leaf in inputs.outline.items() if inputs.changed(key)}
        elect = cache(lambda key: _elect(inputs, key))

        @cache
        def scales() -> Tensor:
            own, selected = sum((elect(key).means for key in changed), start=torch.zeros(2, len(inputs.tasks)))
            return torch.where(selected > 0, own / selected, 1.0)

        def part(row: int) -> Lazy:
            masks = {MASK + key: torch.empty(packed_size(leaf.numel()), dtype=torch.uint8, device="meta")
                     for key, leaf in changed.items()}  # fmt: skip
            shapes = {**masks, SCALE: torch.empty((), dtype=torch.float64, device="meta")}
            return Lazy(shapes, lambda name: scales()[row] if name == SCALE else elect(name.removeprefix(MASK)).masks[row])

        shared = Lazy(changed, lambda key: elect(key).vector)
        compact = Compact(inputs.outline, {task: part(row) for row, task in enumerate(inputs.tasks)}, shared)
        return MergeFamily.of_compact(inputs.tasks, lambda coefficients: compact)


def _elect(inputs: MergeInputs, key: str) -> Elected:
    leaf, tasks = inputs.outline[key], len(inputs.tasks)
    vector = torch.empty(leaf.shape, dtype=leaf.dtype, device=inputs.device)
    masks = torch.empty(tasks, packed_size(leaf.numel()), dtype=torch.uint8, device=inputs.device)
    flat = vector.view(-1)

    def visit(part: slice, stack: Tensor) -> Tensor:
        sign = stack.sum(0).gt_(0).mul_(2).sub_(1)
        total = stack.mul_(sign).sum(1)
        agreeing = stack.clamp_min_(0)
        kept = agreeing.sum(1)
        largest = agreeing.amax(0)
        masks[:, part.start // 8 : packed_size(part.stop)] = pack(agreeing.to(torch.bool))
        selected = agreeing.gt_(0).mul_(largest).sum(1)
        torch.mul(largest, sign, out=flat[part])
        return torch.stack([total, kept, selected]).double()

    total, kept, selected = sum(inputs.each(key, visit)) / leaf.numel()
    means = torch.stack([2 * kept - total, selected])  # a magnitude is what agrees minus what does not
    return Elected(vector, masks, means.cpu())
