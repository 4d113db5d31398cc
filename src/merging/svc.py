"""SVC (ICML 2026, singular value calibration): rescale a merged matrix's singular values by what each direction has of
the tasks' own matrices.

Along a left singular vector the merged matrix may count what several tasks share several times over. Its value there is
divided by the mean, over tasks, of the merged matrix's share of the task's own row, or by `alpha` where that is less.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from src.errors import UserError, raise_any
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.linear_algebra import Triplets, leading_triplets
from src.merging.engine.matrices import matching, packed, unpacked
from src.merging.matrixwise import Spectral
from src.merging.method import MergeFamily, Wrapper
from src.state_dict import Lazy, Memoized
from src.task_vectors import TaskVector
from src.validation import is_number

MATRICES = "weights"  # the text projection and embeddings stay as they are merged


class Calibration(NamedTuple):
    """A merged matrix by its singular directions, and what each has of the tasks' own matrices.

    left: singular vectors in columns, (m, r).
    rows: the others, times the singular values, (r, n).
    shares: of the merged matrix in the tasks' own rows, (tasks, r): 1 where it is the task's own.
    """

    left: Tensor
    rows: Tensor
    shares: Tensor

    @classmethod
    def of(cls, triplets: Triplets, stack: Tensor) -> "Calibration":
        """Return the calibration of a merged matrix, by its singular triplets, by the tasks' own, (tasks, m, n)."""
        left, rows = triplets.left, (triplets.right * triplets.values).T
        return cls(left, rows, torch.stack([_shares(rows, left.T @ matrix) for matrix in stack]))

    def matrix(self, factor: float, alpha: float) -> Tensor:
        """Return the calibrated matrix, (m, n), of `factor` times the merged one."""
        gains = len(self.shares) / (factor * self.shares).clamp_min(alpha).sum(0)
        return (self.left * (factor * gains)) @ self.rows


@dataclass(frozen=True)
class SVC(Wrapper):
    """SVC over any method that makes one vector; the coefficient is that of the vector that is calibrated.

    alpha: the least share that counts; None for that of the method's paper (`Method.least_share`).
    """

    alpha: float | None

    def __post_init__(self):
        if self.base.per_task or not self.base.combines:
            raise UserError(
                "SVC calibrates one vector that is merged of task vectors, and this method makes none; leave apply_svc out"
            )
        if self.alpha is not None and not (is_number(self.alpha) and self.alpha > 0):
            raise UserError(f"method.svc_alpha is a number above 0, or null for the paper's own; got {self.alpha}")
        if self.base.is_isotropic and not isinstance(self.base, Spectral):
            raise UserError(
                "SVC calibrates directions, and those of equal singular values are known right after the method that makes them "
                "alone; put SVC first, method.step_order=[svc,lines], or leave method.apply_svc out"
            )

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        family = self.base(replace(inputs, keep=False))  # matrices are read once, to be decomposed
        alpha = self.alpha or self.base.least_share(len(inputs.tasks))

        def calibrated(merged: TaskVector, calibrations: Mapping, factor: Callable[[str], float]) -> TaskVector:
            def entry(key: str) -> Tensor:
                if key not in calibrations:
                    return merged[key]
                parts, dim = calibrations[key]
                return packed([part.matrix(factor(key), alpha) for part in parts], dim).contiguous()

            return TaskVector.of((Memoized if inputs.keep else Lazy)(inputs.outline, entry))

        def vectors(coefficient: float) -> dict[str, TaskVector]:
            merged = next(iter(family(coefficient).values()))
            if family.multiples:
                return dict.fromkeys(
                    inputs.tasks, calibrated(merged, shared(), lambda key: family.multiples.factor(coefficient, key))
                )
            return dict.fromkeys(inputs.tasks, calibrated(merged, self._calibrations(inputs, merged), lambda key: 1.0))

        @cache
        def shared() -> Mapping:  # decomposed once, whatever the coefficient
            return self._calibrations(inputs, family.multiples.vector)

        return MergeFamily(vectors, masks=family.masks)  # what LiNeS scaled is scaled anew

    @property
    def decomposes(self) -> bool:
        return True

    def _calibrations(self, inputs: MergeInputs, merged: TaskVector) -> Mapping[str, tuple[list[Calibration], int]]:
        """Return by key the calibrations of the matrices in each changed parameter, and the dimension along which they lie."""

        def work(key: str, stack: Tensor) -> tuple[list[Calibration], int]:
            stacks, dim = unpacked(self.splits_attention, key, stack)
            own = self._own_triplets(inputs, key, stacks)
            triplets = own or [_decomposed(matrix) for matrix in unpacked(self.splits_attention, key, merged[key])[0]]
            return [Calibration.of(*pair) for pair in zip(triplets, stacks)], dim

        names = matching(inputs, MATRICES)
        raise_any([] if names else ["SVC calibrates matrices, and these models have none; leave method.apply_svc out"])
        calibrations = inputs.each_parameter(names, work)
        return Memoized(dict.fromkeys(calibrations), calibrations.__getitem__) if inputs.keep else calibrations

    def _own_triplets(self, inputs: MergeInputs, key: str, stacks: list[Tensor]) -> list[Triplets]:
        """Return the triplets that the method itself makes of each matrix in a parameter; [] if it makes none, or if these
        are no singular ones.

        Where singular values are equal, as Iso-C's are, the merged matrix does not determine them.
        """
        if not isinstance(self.base, Spectral) or key not in matching(inputs, self.base.matrices):
            return []
        triplets = [self.base.triplets(stack) for stack in stacks]
        return triplets if all(each.are_orthonormal for each in triplets) else []


def _decomposed(matrix: Tensor) -> Triplets:
    """Return all singular triplets of a matrix, computed in float64, in its dtype."""
    return Triplets(*(part.to(matrix.dtype) for part in leading_triplets(matrix.double(), min(matrix.shape))))


def _shares(rows: Tensor, own: Tensor) -> Tensor:
    """Return <row, own row> / |own row|^2 of each row, (r,); 0 where the own row is zero."""
    squares = own.square().sum(1)
    return (rows * own).sum(1).div_(torch.where(squares > 0, squares, torch.inf))
