"""MaTS (Tam, Bansal, Raffel, TMLR 2024, Merging by Matching Models in Task Parameter Subspaces): conjugate gradients on the
normal equations of merging, a few iterations of which keep close to where they start."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from src.checkpoints.bundles import is_bundled_task
from src.checkpoints.shards import split_part
from src.checkpoints.solved import Solved
from src.errors import raise_any
from src.merging.engine.conjugate_gradient import Convergence, jacobi, solve
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.objectives import OBJECTIVES, Equations
from src.merging.weighted_mean import OffDiagonal
from src.runtime.files import expand_path, file_state
from src.task_vectors import TaskVector
from src.validation import is_number, is_whole

PRECISIONS = {"fp32": torch.float32, "fp64": torch.float64}


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
        if not isinstance(self.initialisation, str) or not (self.initialisation in START or _is_there(self.initialisation)):
            problems.append(
                f"method.initialisation is {', '.join(START)} or the path of a merged model, and {self.initialisation} is neither"
            )
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

    @property
    def has_off_diagonal(self) -> bool:
        return OBJECTIVES[self.objective].has_off_diagonal

    def vectors(self, inputs: MergeInputs) -> Callable[[float], TaskVector]:
        equations, tasks = Equations(OBJECTIVES[self.objective], inputs), len(inputs.tasks)
        traces = equations.traces()
        weights = self.task_weights(tasks) * self.scales(lambda: traces, tasks)
        weights = (weights / weights.mean()).tolist()
        merged = None if self.initialisation in START else inputs.model_at(self.initialisation)
        # what tells the run's start and statistics from others of the same names, for solutions that are kept
        question = [self.description, traces.tolist(), None if merged is None else file_state(self.initialisation)]

        def start(key: str, values: Tensor, pretrained: Tensor) -> Tensor:
            if merged is not None:
                return merged[key].to(pretrained) - pretrained
            return START[self.initialisation](self, values)

        def solution_of(off_diagonal: float, key: str, stack: Tensor) -> Solved:
            values = stack.to(PRECISIONS[self.precision])
            pretrained = inputs.pretrained[key].to(values)
            system = equations.of(key, values, weights, off_diagonal)
            solution, convergence = solve(
                system.operator,
                system.target,
                start(key, values, pretrained),
                # the tolerance is of the right-hand side for whole weights, of which task vectors are a part
                norm=torch.linalg.vector_norm(system.target + system.operator(pretrained)).item(),
                iterations=self.iterations,
                tolerance=self.tolerance,
                inverse=jacobi(system.diagonal()) if self.preconditioned else None,
            )
            return solution.to(stack.dtype), asdict(convergence)

        def merge(off_diagonal: float, key: str, stack: Tensor) -> Tensor:
            make = partial(solution_of, off_diagonal, key, stack)
            solution, facts = inputs.solved.about([*question, off_diagonal]).get(key, make) if inputs.solved else make()
            inputs.convergence[key] = Convergence(**facts)
            return solution.to(stack.device)

        return lambda off_diagonal: inputs.parameterwise(equations.__contains__, partial(merge, off_diagonal), self.mean)


def _is_there(path: str) -> bool:
    """Whether there is a model at a path."""
    return split_part(expand_path(path))[0].exists() or is_bundled_task(expand_path(path))


START: dict[str, Callable[[ConjugateGradient, Tensor], Tensor]] = {  # of the tasks' values, (tasks, *shape)
    "average": lambda method, values: method.mean(values),
    "pretrained": lambda method, values: torch.zeros_like(values[0]),
    "sum": lambda method, values: values.sum(0) * method.initial_lambda,
}
