"""Conjugate gradients (Hestenes and Stiefel, 1952) for the linear systems of merging, one parameter at a time."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]
CONVERGED, STALLED, LIMIT, BREAKDOWN = "converged", "stalled", "iteration limit", "breakdown"
REASONS = {CONVERGED: "converged", STALLED: "stalled by rounding", LIMIT: "reached the limit", BREAKDOWN: "broke down"}


@dataclass(frozen=True)
class Convergence:
    """What became of one system.

    iterations: those taken.
    initial, final: the norm of the residual before and after, over that of the right-hand side; the final one computed anew.
    reason: why it ended: CONVERGED, STALLED (it seemed so, but rounding is larger than the tolerance), LIMIT, or BREAKDOWN (a
        direction of no curvature, or numbers out of range).
    """

    iterations: int
    initial: float
    final: float
    reason: str


def solve(
    operator: Operator,
    target: Tensor,
    start: Tensor,
    norm: float,
    iterations: int,
    tolerance: float,
    inverse: Operator | None = None,
) -> tuple[Tensor, Convergence]:
    """Return an approximate solution x of `operator(x) = target`, and how well it is solved.

    It is `start` plus what the residual's Krylov space holds, so coordinates without curvature keep what they start from.

    operator: linear, symmetric, positive semi-definite.
    norm: of the right-hand side that residuals are measured against.
    tolerance: of the residual over `norm`, at which it is solved.
    inverse: a preconditioner, an approximate inverse of the operator.
    """
    precondition = inverse or (lambda residual: residual)
    solution, residual = start.clone(), target - operator(start)
    initial = size = _norm(residual)
    reason, taken = LIMIT, 0
    step = precondition(residual)
    direction, energy = step.clone(), _dot(residual, step)
    while True:
        if size <= tolerance * norm:
            reason = CONVERGED
            break
        if taken == iterations:
            break
        image = operator(direction)
        curvature = _dot(direction, image)
        if not (curvature > 0 and math.isfinite(curvature) and math.isfinite(energy) and energy):
            reason = BREAKDOWN
            break
        rate = energy / curvature
        solution.add_(direction, alpha=rate)
        residual.sub_(image, alpha=rate)
        taken += 1
        step = precondition(residual)
        energy, last = _dot(residual, step), energy
        direction.mul_(energy / last).add_(step)
        size = _norm(residual)
    final = _norm(target - operator(solution))
    if reason == CONVERGED and not final <= 2 * tolerance * norm:  # rounding hid what is left
        reason = STALLED
    scale = norm or 1.0
    return solution, Convergence(taken, initial / scale, final / scale, reason)


def jacobi(diagonal: Tensor) -> Operator:
    """Return the preconditioner that divides by the operator's diagonal; coordinates without curvature are left."""
    return lambda residual: torch.where(diagonal > 0, residual / diagonal, residual)


def convergence_notes(convergence: Mapping[str, Convergence]) -> list[str]:
    """Return a sentence on how well the equations of all parameters are solved; [] where there were none."""
    if not convergence:
        return []
    counts = Counter(each.reason for each in convergence.values())
    worst = max(convergence, key=lambda key: convergence[key].final)
    reasons = ", ".join(f"{counts[reason]} {what}" for reason, what in REASONS.items() if counts[reason])
    most = max(each.iterations for each in convergence.values())
    return [
        f"conjugate gradients: of {len(convergence)} parameters {reasons}, in at most {most} iterations; the largest residual is "
        f"{convergence[worst].final:.1e} of the right-hand side, in {worst}"
    ]


def _dot(a: Tensor, b: Tensor) -> float:
    return torch.dot(a.reshape(-1), b.reshape(-1)).item()


def _norm(a: Tensor) -> float:
    return torch.linalg.vector_norm(a).item()
