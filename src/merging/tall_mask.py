"""TALL masks (Wang et al., ICML 2024): for each task, the entries of a multi-task vector that this task needs.

An entry is on where the task's own move is large beside what the merged model is off by:
|p - f| > lambda |(p + m) - f| for pre-trained p, fine-tuned f and the multi-task vector m.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from src.merging.engine.inputs import MergeInputs
from src.merging.engine.masks import Masks, MaskStack, Select, masked_compact
from src.merging.method import MergeFamily, Method, Searched, multi_task_vector, require_shared
from src.state_dict import StateDict


@dataclass(frozen=True, kw_only=True)
class TallMask(Searched):
    """The base method's vector under each task's own mask; lambda is searched for each task.

    base: makes the multi-task vector.
    masks: packed, by task and key, if they were made earlier.
    """

    base: Method
    masks: Mapping[str, StateDict] | None = None

    per_task = True
    makes_masks = True

    def __post_init__(self):
        super().__post_init__()
        require_shared(self.base)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        shared = multi_task_vector(self.base, inputs)
        masks = self.masks_by_lambda(inputs, shared)
        return MergeFamily.of_compact(inputs.tasks, lambda lambdas: masked_compact(inputs, shared, masks(lambdas)))

    def masks_by_lambda(self, inputs: MergeInputs, shared: StateDict) -> Callable[[Mapping[str, float]], Mapping[str, StateDict]]:
        """Return a function from a lambda by task to packed masks by task and key.

        The masks of all lambdas of the grid are made in one pass.

        shared: the base method's vector, which they are made for.
        """
        if self.masks is not None:
            return lambda lambdas: self.masks
        stacks: dict[tuple[float, ...], MaskStack] = {}

        def masks(lambdas: Mapping[str, float]) -> Mapping[str, StateDict]:
            wanted = set(lambdas.values())
            numbers = tuple(self.grid) if wanted <= set(self.grid) else tuple(sorted(wanted))
            if numbers not in stacks:
                stacks[numbers] = _mask_stack(inputs, shared, numbers)
            return stacks[numbers].at({task: numbers.index(number) for task, number in lambdas.items()})

        return masks

    @property
    def mask_base(self) -> dict:
        return self.base.description

    def with_masks(self, masks: Mapping[str, StateDict]) -> Method:
        return replace(self, masks=masks)


def _mask_stack(inputs: MergeInputs, shared: StateDict, lambdas: Sequence[float]) -> MaskStack:
    """Return the masks of all lambdas, made in one pass, in the papers' order of operations: they are equal to the bit."""

    def prepare(key: str) -> Select:
        pretrained, models = inputs.weights(key)
        vector = shared[key].reshape(-1)

        def select(part: slice, stack: Tensor) -> Masks:
            merged = pretrained[part].to(stack) + vector[part]
            own = stack.abs_()
            off = [torch.sub(merged, model[part].to(stack)).abs_() for model in models]
            bound = torch.empty_like(merged)
            for number in lambdas:
                yield [row > torch.mul(far, number, out=bound) for row, far in zip(own, off)]

        return select

    return MaskStack(inputs, len(lambdas), prepare)
