"""LiNeS (Wang et al., ICLR 2025): scale a vector up with depth, so that shallow, general layers change least.

An entry in block l of L blocks is scaled by `floor + slope * l / (L - 1)`, an entry outside the blocks by `floor`
(alpha and beta in the paper).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from src.errors import UserError
from src.merging.engine.inputs import Ingredients
from src.merging.method import Accuracies, Family, Method
from src.state_dict import StateDict
from src.task_vectors import TaskVector


@dataclass(frozen=True)
class LiNeS(Method):
    """LiNeS over any merging method; the searched coefficient is the slope.

    The floor is ||sum of the task vectors||_1 / ||merged vector||_1 / T: where a method shrinks the sum, it makes up.
    """

    base: Method

    def __post_init__(self):
        if self.base.per_task:
            raise UserError("LiNeS scales one merged vector; this method gives each task its own, so leave apply_lines out")

    def __call__(self, given: Ingredients) -> Family:
        family = self.base(given)
        merged = next(iter(family(1.0).values()))
        if self.base.decomposes and not given.keep:
            merged = merged.load()  # asked for twice: for its norm, and to be scaled
        size = sum(self.base.used(given).scan(lambda stack: stack.sum(0).abs_().sum(dtype=torch.float64).item()))
        norm = merged.norm(1)
        floor = size / norm / len(given.tasks) if norm else 0.0

        def scale(slope: float, depth: float | None) -> float:
            return floor + slope * (depth or 0.0)

        def vectors(slope: float) -> dict[str, TaskVector]:
            return dict.fromkeys(given.tasks, scaled_by_depth(merged, given.depth, scale, slope))

        return Family(vectors, scale, masks=family.masks)

    def coefficients(self, tasks: int) -> tuple[float, ...]:
        return self.base.coefficients(tasks)

    def respaced(self, points: int) -> Method:
        return replace(self, base=self.base.respaced(points))

    @property
    def mask_base(self) -> dict:
        return self.base.mask_base

    @property
    def mask_method(self) -> Method | None:
        return self.base.mask_method

    def with_masks(self, masks: Mapping[str, StateDict]) -> Method:
        return replace(self, base=self.base.with_masks(masks))

    def used(self, given: Ingredients) -> Ingredients:
        return self.base.used(given)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        self.base.check_tasks(tasks)

    def check_coefficient(self, coefficient: float, tasks: int) -> None:
        self.base.check_coefficient(coefficient, tasks)

    def objective(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> float:
        return self.base.objective(merged, finetuned, zeroshot)

    def summary(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> dict[str, float]:
        return self.base.summary(merged, finetuned, zeroshot)


def scaled_by_depth(
    vector: TaskVector,
    depth: Callable[[str], float | None],
    scale: Callable[[float, float | None], float],
    coefficient: float,
) -> TaskVector:
    """Every entry of `vector` times `scale(coefficient, depth(key))`."""
    return vector.map(lambda key, entry: entry * scale(coefficient, depth(key)))
