"""Weight averaging (Wortsman et al., ICML 2022, uniform soup): the mean of the fine-tuned models."""

import math
from dataclasses import dataclass

from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.method import Fixed, MergeFamily, Method


@dataclass(frozen=True, kw_only=True)
class Average(Fixed):
    """The mean of the task vectors: their sum times 1/T."""

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        total = inputs.slicewise(lambda stack: stack.sum(0))
        mean = (1 / len(inputs.tasks)) * total
        return MergeFamily(lambda coefficient: dict.fromkeys(inputs.tasks, mean))  # specify_lambda=0.333 means 1/3, too

    def coefficient(self, tasks: int) -> float:
        return 1 / tasks

    def check_coefficient(self, coefficient: float, tasks: int) -> None:
        if not math.isclose(coefficient, 1 / tasks, rel_tol=1e-3):
            raise UserError(
                f"method=average has the fixed coefficient 1/T = {1 / tasks:.4g}, not specify_lambda={coefficient}; "
                "for another one use method=sum, which is the same vector"
            )

    def lines_form(self) -> Method | None:
        raise UserError(
            "method=average has no coefficient for LiNeS to vary with depth: LiNeS on the sum of the task vectors starts "
            "from this very average; use method=sum method.apply_lines=True"
        )
