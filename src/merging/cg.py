"""MaTS (Tam, Bansal, Raffel, TMLR 2024, Merging by Matching Models in Task Parameter Subspaces): conjugate gradients on the
normal equations of merging, a few iterations of which keep close to where they start."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from src.checkpoints.solved import Solved
from src.errors import raise_any
from src.merging.engine.conjugate_gradient import Convergence, jacobi, solve
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.objectives import OBJECTIVES
from src.merging.weighted_mean import OffDiagonal
from src.task_vectors import TaskVector
from src.validation import is_number, is_whole

PRECISIONS = {"fp32": torch.float32, "fp64": torch.float64}
START: dict[str, Callable[[Tensor, float], Tensor]] = {
    "average": lambda values, coefficient: values.mean(0),
    "pretrained": lambda values, coefficient: torch.zeros_like(values[0]),
    "sum": lambda values, coefficient: values.sum(0) * coefficient,
}


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient(OffDiagonal):
    """Conjugate gradients on the normal equations of `objective`, parameter by parameter; those without any are averaged.

    objective: one of OBJECTIVES.
    iterations: at most; a parameter ends earlier when its residual is `tolerance` times the right-hand side.
    initialisation: where they start: the average of the models, the pre-trained model, the sum of the task vectors times
        `initial_lambda`, or a merged model, by the path of its file.
    preconditioned: whether by the diagonal (Jacobi).
    precision: of the arithmetic, fp32 or fp64.
    """

    objective: str
    iterations: int
    tolerance: float
    initialisation: str
    initial_lambda: float
    preconditioned: bool
    precision: str

    decomposes = True

    def __post_init__(self):
        super().__post_init__()
        problems = []
        if self.objective not in list(OBJECTIVES):
            problems.append(f"method.objective is one of {', '.join(OBJECTIVES)}; got {self.objective}")
        if not is_whole(self.iterations, 1):
            problems.append(f"method.iterations is a positive whole number; got {self.iterations}")
        if not is_number(self.tolerance) or self.tolerance < 0:
            problems.append(f"method.tolerance is a number, at least 0; got {self.tolerance}")
        if not isinstance(self.initialisation, str):
            problems.append(f"method.initialisation is {', '.join(START)} or a path; got {self.initialisation}")
        if not is_number(self.initial_lambda):
            problems.append(f"method.initial_lambda is a number; got {self.initial_lambda}")
        if self.preconditioned not in (True, False):
            problems.append(f"method.preconditioned is true or false; got {self.preconditioned}")
        if self.precision not in list(PRECISIONS):
            problems.append(f"method.precision is {' or '.join(PRECISIONS)}; got {self.precision}")
        raise_any(problems)

    @property
    def files(self) -> tuple[str, ...]:
        return () if self.initialisation in START else (self.initialisation,)

    @property
    def needs(self) -> tuple[str, ...]:
        return OBJECTIVES[self.objective].needs

    def vector(self, inputs: MergeInputs, off_diagonal: float) -> TaskVector:
        objective, weights = OBJECTIVES[self.objective](inputs), self.task_weights(len(inputs.tasks))
        if self.normalise:
            weights = weights * self.scales(objective.traces(inputs))
        weights = weights / weights.mean()
        merged = None if self.initialisation in START else inputs.model_at(self.initialisation)

        def start(key: str, values: Tensor, pretrained: Tensor) -> Tensor:
            if merged is not None:
                return merged[key].to(pretrained) - pretrained
            return START[self.initialisation](values, self.initial_lambda)

        solved = inputs.solved and inputs.solved.about([self.description, off_diagonal])

        def merge(key: str, stack: Tensor) -> Tensor:
            solution, facts = solved.get(key, lambda: solution_of(key, stack)) if solved else solution_of(key, stack)
            inputs.convergence[key] = Convergence(**facts)
            return solution

        def solution_of(key: str, stack: Tensor) -> Solved:
            values = stack.to(PRECISIONS[self.precision])
            pretrained = inputs.pretrained[key].to(values)
            equations = objective.of(key, values, weights, off_diagonal)
            # in coordinates around the pre-trained weights the iterates are the same, but for the size of the right-hand side
            size = torch.linalg.vector_norm(equations.target + equations.operator(pretrained)).item()
            inverse = jacobi(equations.diagonal()) if self.preconditioned else None
            solution, convergence = solve(
                equations.operator,
                equations.target,
                start(key, values, pretrained),
                norm=size,
                iterations=self.iterations,
                tolerance=self.tolerance,
                inverse=inverse,
            )
            return solution.to(stack.dtype), asdict(convergence)

        return inputs.parameterwise(objective.__contains__, merge, lambda stack: stack.mean(0))
