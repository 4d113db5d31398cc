"""Interpolation of models (Wortsman et al., CVPR 2022, WiSE-FT): weighted sums of them, between two by one coefficient."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Method, Searched
from src.merging.weighted_mean import check_weights
from src.state_dict import Lazy
from src.task_vectors import TaskVector
from src.validation import is_number


@dataclass(frozen=True, kw_only=True)
class Interpolate(Searched):
    """The sum of the models, each times its weight.

    weights: of the models; if they do not add up to 1, the pre-trained weights in them are scaled, too. None: the first has
        the coefficient and the others share the rest, or the pre-trained model has it where there is one model alone.
    """

    weights: Sequence[float] | None

    combines = False

    def __post_init__(self):
        super().__post_init__()
        if self.weights is not None and not (isinstance(self.weights, list | tuple) and all(map(is_number, self.weights))):
            raise UserError(f"method.weights is a list of numbers such as [0.3,0.7]; got {self.weights}")

    def check_tasks(self, tasks: Sequence[str]) -> None:
        check_weights(self.weights, tasks)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        def vectors(coefficient: float) -> dict[str, TaskVector]:
            others = len(inputs.tasks) - 1
            weights = self.weights or [coefficient, *[(1 - coefficient) / others for _ in range(others)]]
            rest = sum(weights) - 1 if self.weights else 0.0

            vector = inputs.slicewise(lambda stack: torch.tensor(weights, dtype=stack.dtype, device=stack.device) @ stack)
            if abs(rest) > 1e-9:
                vector = vector + rest * TaskVector.of(Lazy(inputs.outline, pretrained))
            return dict.fromkeys(inputs.tasks, vector)

        def pretrained(key: str) -> Tensor:
            return inputs.pretrained[key].to(device=inputs.device, dtype=inputs.outline[key].dtype)

        return MergeFamily(vectors)

    def coefficients(self, tasks: int) -> tuple[float, ...]:
        return tuple(self.grid) if self.weights is None else (1.0,)

    def check_coefficient(self, coefficient: float, tasks: int) -> None:
        super().check_coefficient(coefficient, tasks)
        if self.weights is not None and coefficient != 1:
            raise UserError("method.weights and specify_lambda both say how much of each model there is; give one of the two")

    def lines_form(self) -> Method | None:
        raise UserError(
            "method=interpolate weighs whole models, and LiNeS scales what fine-tuning changed; use method=sum with apply_lines"
        )
