"""ESM (Essential Subspace Merging, CVPR 2026): keep of each task the directions in which it moves a layer's outputs most."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from src.errors import UserError, shorten
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.linear_algebra import EPSILON, UNITS_FLOOR, leading_eigenpairs, leading_triplets, polar_factor
from src.merging.engine.statistics import GRAM_IN, Statistic
from src.merging.matrixwise import NO_DIRECTIONS
from src.merging.method import MergeFamily, Searched
from src.merging.tsvm import merged_triplets

SPREAD = 0.15  # the power of a direction's share of the variance by which it counts


@dataclass(frozen=True, kw_only=True)
class ESM(Searched):
    """Each layer's leading directions of movement of its outputs, 1/T of them a task, by unlabelled examples.

    Other matrices are merged as by TSV-M, other entries are averaged.

    tsv_layers: parts of the names of layers that TSV-M merges, though the Gram matrices of their inputs are known.
    """

    tsv_layers: Sequence[str]

    decomposes = True

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.tsv_layers, list | tuple) or not all(isinstance(part, str) for part in self.tsv_layers):
            raise UserError(f"method.tsv_layers lists parts of names, as in method.tsv_layers=[out_proj]; got {self.tsv_layers}")

    @property
    def needs(self) -> tuple[str, ...]:
        return (GRAM_IN,)

    def notes(self, inputs: MergeInputs) -> list[str]:
        lost = [key for key in inputs.outline if inputs.is_matrix(key) and inputs.changed(key)
                and len(inputs.outline[key]) < len(inputs.tasks)]  # fmt: skip
        return super().notes(inputs) + [f"{shorten(lost)}: {NO_DIRECTIONS.format(len(inputs.tasks))}"] * bool(lost)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        grams = Statistic(inputs, GRAM_IN)

        def merge(key: str, stack: Tensor) -> Tensor:
            if key in grams and not set(key.split(".")) & set(self.tsv_layers):
                return essential_merge(stack, grams.copies(key, stack.dtype))
            return merged_triplets(stack).product

        merged = inputs.parameterwise(inputs.is_matrix, merge, lambda stack: stack.mean(0))
        if not inputs.keep:
            merged = merged.load()  # read twice: for the norms of layers, and to be scaled by them
        layers = [key for key in inputs.outline if inputs.is_matrix(key) and inputs.changed(key)]
        scales = scales_by_norm({key: torch.linalg.vector_norm(merged[key]).item() for key in layers})
        return MergeFamily.shared(inputs.tasks, merged.map(lambda key, entry: entry * scales.get(key, 1.0)))


def essential_merge(stack: Tensor, grams: Iterable[Tensor]) -> Tensor:
    """Return the merged matrix of a layer, (tasks, m, n) -> (m, n).

    grams: of each task's inputs, (n, n), in any unit: only the shares of variances count.
    """
    tasks, rows, columns = stack.shape
    rank, lefts, rights = rows // tasks, [], []
    if rank == 0:
        return torch.zeros_like(stack[0])
    sizes = _over_mean(torch.stack([torch.linalg.vector_norm(matrix.double()) for matrix in stack]))
    for matrix, gram, size in zip(stack.double(), grams, sizes):
        directions, variances = essential_directions(matrix, gram.double(), rank)
        spread = _over_mean(_over_mean(variances) ** SPREAD)[: directions.shape[1]]
        lefts.append(directions * spread)
        rights.append(spread[:, None] * size**2 * (directions.T @ matrix))
    left, right = torch.cat(lefts, 1), torch.cat(rights)
    right = right * _over_mean(torch.linalg.vector_norm(right, dim=0)) ** 2
    merged = 2 * _isotropic(left, rank * tasks) @ _isotropic(right, min(rank * tasks, columns))
    return merged.to(stack.dtype)


def essential_directions(matrix: Tensor, gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the leading directions of a layer's change of outputs X matrix^T, (m, r), and its variances there, (rank,).

    They are the eigenvectors of `matrix gram matrix^T`; those of variance zero are left out, r <= rank.

    matrix: (m, n).
    gram: X^T X, (n, n).
    """
    rows, columns = matrix.shape
    if rows <= columns:
        variances, directions = leading_eigenpairs(matrix @ gram @ matrix.T, rank)
    else:  # by the smaller matrix: gram = root root^T
        values, vectors = leading_eigenpairs(gram, columns)
        triplets = leading_triplets(matrix @ (vectors * values.clamp_min(0).sqrt()), min(rank, columns))
        variances, directions = triplets.values**2, triplets.left
    is_known = variances > EPSILON * variances[0]  # below it, a sum of products in float32 tells nothing from zero
    padded = variances.new_zeros(rank)
    padded[: is_known.sum()] = variances[is_known]
    return directions[:, is_known], padded


def scales_by_norm(norms: dict[str, float]) -> dict[str, float]:
    """Return the square of each layer's norm over the mean of those of its kind: of the same name but for numbers.

    norms: of layers, by name.
    """
    kinds = {key: ".".join(part for part in key.split(".") if not part.isdigit()) for key in norms}
    means = {kind: fmean(norms[key] for key in norms if kinds[key] == kind) for kind in set(kinds.values())}
    return {key: (norm / means[kinds[key]]) ** 2 if norm else 0.0 for key, norm in norms.items()}


def _over_mean(values: Tensor) -> Tensor:
    """Return numbers, at least 0, over their mean; zeros where all are."""
    return values / values.mean().clamp_min(torch.finfo(values.dtype).tiny)


def _isotropic(matrix: Tensor, count: int) -> Tensor:
    """Return a matrix with all its singular values, those of zero left out, equal to the mean of `count`, zeros among them."""
    factor = polar_factor(matrix, UNITS_FLOOR)
    return factor * ((factor * matrix).sum() / count)  # <U V^T, U S V^T> is the sum of the singular values
