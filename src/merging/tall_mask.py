"""TALL masks (Wang et al., ICML 2024): for each task, the entries of a multi-task vector that this task needs.

An entry is on where the task's own move is large beside what the merged model is off by:
|p - f| > lambda |(p + m) - f| for pre-trained p, fine-tuned f and the multi-task vector m.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from src.merging.engine.inputs import Ingredients
from src.merging.engine.masks import Masks, MaskStack, Select, check_base, masked_compact, multi_task_vector
from src.merging.method import Family, Method, Searched
from src.state_dict import StateDict


@dataclass(frozen=True, kw_only=True)
class TallMask(Searched):
    """The base method's vector under each task's own mask; lambda is searched for each task.

    base: what makes the multi-task vector; masks: packed, by task and key, if they were made earlier.
    """

    base: Method
    masks: Mapping[str, StateDict] | None = None

    per_task = True
    makes_masks = True

    def __post_init__(self):
        super().__post_init__()
        check_base(self.base)

    def __call__(self, given: Ingredients) -> Family:
        shared = multi_task_vector(self.base, given)
        masks = self.chosen_masks(given, shared)
        return Family.of_compact(given.tasks, lambda lambdas: masked_compact(given, shared, masks(lambdas)))

    def chosen_masks(self, given: Ingredients, shared: StateDict) -> Callable[[Mapping[str, float]], Mapping[str, StateDict]]:
        """Packed masks by task and key for a lambda by task; the masks of all lambdas of the grid are made in one pass.

        shared: the base method's vector, which they are made for.
        """
        if self.masks is not None:
            return lambda lambdas: self.masks
        stacks: dict[tuple[float, ...], MaskStack] = {}

        def chosen(lambdas: Mapping[str, float]) -> Mapping[str, StateDict]:
            asked = set(lambdas.values())
            numbers = tuple(self.grid) if asked <= set(self.grid) else tuple(sorted(asked))
            if numbers not in stacks:
                stacks[numbers] = _mask_stack(given, shared, numbers)
            return stacks[numbers].chosen({task: numbers.index(number) for task, number in lambdas.items()})

        return chosen

    @property
    def mask_base(self) -> dict:
        return self.base.description

    def with_masks(self, masks: Mapping[str, StateDict]) -> Method:
        return replace(self, masks=masks)


def _mask_stack(given: Ingredients, shared: StateDict, lambdas: Sequence[float]) -> MaskStack:
    """The masks of all lambdas in one pass. In the papers' order of operations, so that they are equal to the bit."""

    def prepare(key: str) -> Select:
        before, models = given.weights(key)
        vector = shared[key].view(-1)

        def select(part: slice, stack: Tensor) -> Masks:
            merged = before[part].to(stack) + vector[part]
            own = stack.abs_()
            off = [torch.sub(merged, model[part].to(stack)).abs_() for model in models]
            bound = torch.empty_like(merged)
            for number in lambdas:
                yield [row > torch.mul(far, number, out=bound) for row, far in zip(own, off)]

        return select

    return MaskStack(given, len(lambdas), prepare)
