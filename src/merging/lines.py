"""LiNeS (Wang et al., ICLR 2025): scale a vector up with depth, so that shallow, general layers change least.

An entry in block l of L blocks is scaled by `alpha + beta * l / (L - 1)`, an entry outside the blocks by `alpha`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Method, Multiples, Searched, Wrapper, check_grid
from src.task_vectors import TaskVector


def with_lines(method: Method) -> Method:
    """Return `method` scaled by depth with LiNeS. Raise UserError, with the reason, where the papers have no such method."""
    return method.lines_form() or LiNeS(method.under_lines())


@dataclass(frozen=True, kw_only=True)
class OwnScale(Searched):
    """A method whose vectors have the right size by themselves: its coefficient is 1 unless the user gives others to search.

    betas: under LiNeS, the grid of beta.
    """

    betas: Sequence[float]

    def __post_init__(self):
        super().__post_init__()
        check_grid("method.betas", self.betas)

    def under_lines(self) -> Method:
        return replace(self, grid=self.betas)


@dataclass(frozen=True)
class LiNeS(Wrapper):
    """LiNeS over any merging method; the searched coefficient is beta.

    alpha is ||sum of the task vectors||_1 / ||merged vector||_1 / T: where a method shrinks the sum, alpha scales it back up.
    """

    def __post_init__(self):
        if self.base.per_task:
            raise UserError("LiNeS scales one merged vector; this method gives each task its own, so leave apply_lines out")

    def lines_form(self) -> Method | None:
        raise UserError("LiNeS scales by depth already; leave method.apply_lines out")

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        family = self.base(inputs)
        merged = next(iter(family(1.0).values()))
        if self.base.decomposes and not inputs.keep:
            merged = merged.load()  # read twice: for its norm, and to be scaled
        sums = self.summed_inputs(inputs).scan(lambda stack: stack.sum(0).abs_().sum(dtype=torch.float64).item())
        sum_norm, merged_norm = sum(sums), merged.norm(1)
        alpha = sum_norm / merged_norm / len(inputs.tasks) if merged_norm else 0.0

        def scale(beta: float, depth: float | None) -> float:
            return alpha + beta * (depth or 0.0)

        def vectors(beta: float) -> dict[str, TaskVector]:
            return dict.fromkeys(inputs.tasks, scaled_by_depth(merged, inputs.depth, lambda depth: scale(beta, depth)))

        multiples = Multiples(merged, lambda beta, key: scale(beta, inputs.depth(key)))
        return MergeFamily(vectors, scale, multiples, masks=family.masks)


def scaled_by_depth(
    vector: TaskVector, depth: Callable[[str], float | None], scale: Callable[[float | None], float]
) -> TaskVector:
    """Return `vector` with each entry times `scale(depth(key))`."""
    return vector.map(lambda key, entry: entry * scale(depth(key)))
