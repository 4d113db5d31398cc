"""Packed masks of all tasks, built slice by slice beside the vector they select from."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from src.compact import Compact, masks_as_parts, pack, packed_size
from src.errors import UserError
from src.merging.engine.inputs import Ingredients
from src.merging.method import Method
from src.state_dict import Kept, Lazy, StateDict, outline

Masks = Iterable[Iterable[Tensor]]  # of one slice: for each mask number, for each task, (n,) bool
Select = Callable[[slice, Tensor], Masks]


def check_base(base: Method) -> None:
    """Raise UserError unless a base method makes one vector that all tasks share."""
    if base.per_task:
        raise UserError("method.base gives each task its own vector, and masks select from one that all share; choose another")


def multi_task_vector(base: Method, given: Ingredients) -> StateDict:
    """The vector of a base method that all tasks share, coefficient 1, changed entries only, each computed once."""
    vector = next(iter(base(given)(1.0).values()))
    return Kept({key: leaf for key, leaf in given.outline.items() if given.changed(key)}, vector.__getitem__)


class MaskStack:
    """Several masks a task: entry KEY is (masks, tasks, ceil(n / 8)) packed bits, made at once, when asked for, and kept.

    `prepare(key)` gives what makes the `count` masks of each task from a slice of the stack, as `Ingredients.each` visits.
    """

    def __init__(self, given: Ingredients, count: int, prepare: Callable[[str], Select]):
        self._given = given
        changed = [key for key, leaf in given.outline.items() if given.changed(key)]
        sizes = {key: (count, len(given.tasks), packed_size(given.outline[key].numel())) for key in changed}
        shapes = {key: torch.empty(size, dtype=torch.uint8, device="meta") for key, size in sizes.items()}

        def entry(key: str) -> Tensor:
            select = prepare(key)
            packed = torch.empty(sizes[key], dtype=torch.uint8, device=given.device)

            def visit(part: slice, stack: Tensor) -> None:
                where = slice(part.start // 8, packed_size(part.stop))
                for layer, masks in zip(packed, select(part, stack)):
                    for row, mask in zip(layer, masks):
                        row[where] = pack(mask)

            for _ in given.each(key, visit):
                pass
            return packed

        self._packed = Kept(shapes, entry)

    def chosen(self, numbers: Mapping[str, int]) -> dict[str, StateDict]:
        """By task and key, the packed mask whose number is given for the task."""

        def of_task(row: int, number: int) -> Lazy:
            shapes = {key: leaf[number, row] for key, leaf in self._packed.outline.items()}
            return Lazy(shapes, lambda key: self._packed[key][number, row])

        return {task: of_task(row, numbers[task]) for row, task in enumerate(self._given.tasks)}


def masked_compact(given: Ingredients, shared: StateDict, masks: Mapping[str, StateDict]) -> Compact:
    """The vectors that packed masks select from the shared one; masks of what no task changed are left out."""
    told = {task: Lazy({key: outline(masks[task])[key] for key in shared}, masks[task].__getitem__) for task in given.tasks}
    return Compact(given.outline, masks_as_parts(told), shared)
