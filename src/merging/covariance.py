"""Merging by the covariance of the tasks' own matrices, which stands in for that of their layers' inputs.

A task's weights change most along the inputs that it has, so T^T T of its matrix T is like the covariance of those inputs.
The merged matrix X is to do to each task's inputs what the task's own does. With C = sum of w_t T_t^T T_t,

    X = X_0 + (sum of w_t (T_t - X_0) T_t^T T_t) g(C),   g(c) = f(c) / c,

where f is a filter of eigenvalues: 1 goes all the way to the minimum, less stays near the start X_0.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.covariance import StackCovariance, rank_floor
from src.merging.engine.linear_algebra import EPSILON, safe_scale
from src.merging.engine.trimming import check_percentage, kept_share, largest_entries
from src.merging.lines import OwnScale
from src.merging.matrixwise import Matrixwise
from src.validation import check_share, is_number

START: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda stack: stack.sum(0),
    "average": lambda stack: stack.mean(0),
    "zero": lambda stack: torch.zeros_like(stack[0]),
}
LONGEST_SIDE = 20_000  # of a matrix; longer ones are embeddings
NEAR_SQUARE = 0.1  # how near, relatively, the rows of all tasks are to the columns where the closed forms blow up


@dataclass(frozen=True, kw_only=True)
class Covariance(Matrixwise, OwnScale):
    """A method that draws a start to the tasks' own matrices, along eigenvectors of the sum of their covariances.

    start: `sum`, `average` or `zero`.
    """

    start: str

    def __post_init__(self):
        super().__post_init__()
        if self.start not in list(START):
            raise UserError(f"method.start is one of {', '.join(START)}; got {self.start}")

    def merge(self, stack: Tensor) -> Tensor:
        scale = safe_scale(stack)
        stack = stack / scale if scale != 1 else stack
        start, estimates = START[self.start](stack), self.estimates(stack)
        covariance = StackCovariance.of(estimates, self.weights(estimates))
        merged = start + self.steps(covariance, covariance.pulls(stack, start))
        return merged.to(stack.dtype).mul_(scale)

    def steps(self, covariance: StackCovariance, pulls: Tensor) -> Tensor:
        """Return how far X goes from the start, (m, n), of where all tasks pull it, (m, n)."""
        values, vectors = covariance.eigenpairs()
        if not len(values):
            return torch.zeros_like(pulls)  # no task changed the matrix
        shares = self.filter(values, len(vectors))
        count = int((shares > 0).sum())
        vectors = vectors[:, :count]
        return (pulls @ vectors).mul_((shares / values)[:count]) @ vectors.T

    def estimates(self, stack: Tensor) -> Tensor:
        """Return the matrices whose covariances count, (tasks, m, n), of the tasks' own."""
        return stack

    def weights(self, stack: Tensor) -> Tensor:
        """Return the weights of the tasks' covariances, (tasks,), float64: such that each has the trace 1."""
        squares = torch.linalg.vector_norm(stack, dim=(1, 2), dtype=torch.float64).square()
        return torch.where(squares > 0, 1 / squares, 0.0)

    @abstractmethod
    def filter(self, values: Tensor, size: int) -> Tensor:
        """Return how far X goes along each eigenvector, 0 to 1, (r,): what is 0 comes last.

        values: the nonzero eigenvalues, largest first, (r,).
        size: n, how many there are with those that are zero.
        """


@dataclass(frozen=True, kw_only=True)
class ClosedForm(Covariance):
    """A method that goes all the way to the minimum, but for directions whose eigenvalues are next to nothing."""

    @abstractmethod
    def floor(self, size: int) -> float:
        """Return the share of the largest eigenvalue, of matrices of `size` columns, at and below which nothing is merged."""

    def steps(self, covariance: StackCovariance, pulls: Tensor) -> Tensor:
        solved = covariance.solved(pulls, self.floor(pulls.shape[1]))
        return super().steps(covariance, pulls) if solved is None else solved

    def filter(self, values: Tensor, size: int) -> Tensor:
        return (values > self.floor(size) * values[0]).to(values.dtype)

    def doubt(self, shape: torch.Size) -> str | None:
        tasks, rows, columns = shape
        if tasks == 1 or abs(tasks * rows - columns) > NEAR_SQUARE * columns:
            return None
        return (
            f"the rows of {tasks} tasks are about as many as the columns, which makes this method's matrices too large; "
            "method=aswudi and method=iwudi are steady there"
        )


@dataclass(frozen=True, kw_only=True)
class Wudi(ClosedForm):
    """WUDI (ICML 2025), in closed form: the minimum of the tasks' interference, their matrices counted alike."""

    def floor(self, size: int) -> float:
        return rank_floor(size)


@dataclass(frozen=True, kw_only=True)
class ActMat(ClosedForm):
    """ACTMat (2026): each layer's matrix fits all tasks' matrices on the directions of their own rows.

    Matrices with a side of 20,000 or more are merged like the other entries.
    """

    def floor(self, size: int) -> float:
        return size * EPSILON

    def weights(self, stack: Tensor) -> Tensor:
        return torch.ones(len(stack), dtype=torch.float64)

    def is_merged(self, shape: torch.Size) -> bool:
        return max(shape) < LONGEST_SIDE

    def doubt(self, shape: torch.Size) -> str | None:
        if self.is_merged(shape[1:]):
            return super().doubt(shape)
        return f"with a side of {LONGEST_SIDE:,} or more merged like entries that are no matrices (method.rest={self.rest})"


@dataclass(frozen=True, kw_only=True)
class Tact(ActMat):
    """TACT (2026): ACTMat whose covariances are those of each matrix's largest entries.

    k: percentage of a task's matrix that its covariance is of.
    """

    k: float

    def __post_init__(self):
        super().__post_init__()
        check_percentage(self.k, "tact")

    def estimates(self, stack: Tensor) -> Tensor:
        return largest_entries(stack, max(round(kept_share(self.k) * stack[0].numel()), 1))


@dataclass(frozen=True, kw_only=True)
class IWudi(Covariance):
    """IWUDI (2026): WUDI's gradient flow, stopped early.

    time: of the flow, from the start.
    """

    time: float

    def __post_init__(self):
        super().__post_init__()
        if not (is_number(self.time) and self.time > 0):
            raise UserError(f"method.time is how long the flow runs, a number above 0; got {self.time}")

    def filter(self, values: Tensor, size: int) -> Tensor:
        return -torch.expm1(-self.time * values)


@dataclass(frozen=True, kw_only=True)
class SWudi(IWudi):
    """SWUDI (2026): WUDI's gradient flow, stopped early, along the leading directions alone.

    rank_fraction: of the directions, how many are leading.
    """

    rank_fraction: float

    def __post_init__(self):
        super().__post_init__()
        check_share("method.rank_fraction", self.rank_fraction)

    def filter(self, values: Tensor, size: int) -> Tensor:
        return leading(super().filter(values, size), max(1, int(self.rank_fraction * size + 0.999)))


@dataclass(frozen=True, kw_only=True)
class ASWudi(Covariance):
    """ASWUDI (2026): WUDI along as many leading directions as singular values take part in each matrix's stack."""

    def filter(self, values: Tensor, size: int) -> Tensor:
        values = values.double()
        return leading(torch.ones_like(values), int(torch.ceil(values.sqrt().sum().square() / values.sum())))


def leading(shares: Tensor, count: int) -> Tensor:
    """Return the first `count` shares, and 0 for the others."""
    return torch.cat([shares[:count], torch.zeros_like(shares[count:])])
