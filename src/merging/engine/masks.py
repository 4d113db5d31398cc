"""Packed masks of all tasks, built slice by slice beside the vector they select from."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from src.compact.form import Compact, masks_as_parts
from src.compact.packing import pack, packed_size
from src.merging.engine.inputs import MergeInputs
from src.state_dict import Lazy, Memoized, StateDict, outline

Masks = Iterable[Iterable[Tensor]]  # of one slice: for each mask number, for each task, (n,) bool
Select = Callable[[slice, Tensor], Masks]


class MaskStack:
    """Several masks a task: entry KEY is (masks, tasks, ceil(n / 8)) packed bits, made when first read, and kept.

    count: number of masks a task.
    prepare: `prepare(key)` returns `select(part, stack)`, which yields all masks of one slice (see `MergeInputs.each`).
    """

    def __init__(self, inputs: MergeInputs, count: int, prepare: Callable[[str], Select]):
        self._inputs = inputs
        changed = [key for key, leaf in inputs.outline.items() if inputs.changed(key)]
        sizes = {key: (count, len(inputs.tasks), packed_size(inputs.outline[key].numel())) for key in changed}
        shapes = {key: torch.empty(size, dtype=torch.uint8, device="meta") for key, size in sizes.items()}

        def entry(key: str) -> Tensor:
            select = prepare(key)
            packed = torch.empty(sizes[key], dtype=torch.uint8, device=inputs.device)

            def visit(part: slice, stack: Tensor) -> None:
                packed_part = slice(part.start // 8, packed_size(part.stop))
                for rows, masks in zip(packed, select(part, stack)):
                    for row, mask in zip(rows, masks):
                        row[packed_part] = pack(mask)

            for _ in inputs.each(key, visit):
                pass
            return packed

        self._packed = Memoized(shapes, entry)

    def at(self, numbers: Mapping[str, int]) -> dict[str, StateDict]:
        """Return each task's mask number `numbers[task]`, packed, by task and key."""

        def of_task(row: int, number: int) -> Lazy:
            shapes = {key: leaf[number, row] for key, leaf in self._packed.outline.items()}
            return Lazy(shapes, lambda key: self._packed[key][number, row])

        return {task: of_task(row, numbers[task]) for row, task in enumerate(self._inputs.tasks)}


def masked_compact(inputs: MergeInputs, shared: StateDict, masks: Mapping[str, StateDict]) -> Compact:
    """Return the compact form of the vectors that packed masks select from `shared`, which has the changed entries only."""
    of_changed = {
        task: Lazy({key: outline(masks[task])[key] for key in shared}, masks[task].__getitem__) for task in inputs.tasks
    }
    return Compact(inputs.outline, masks_as_parts(of_changed), shared)
