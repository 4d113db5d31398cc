"""A merged vector as an adapter holds it: matrices as low-rank factors, and other entries whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from src.checkpoints.factors import Factors, LayerKind
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.linear_algebra import leading_triplets
from src.merging.engine.matrices import is_block_matrix
from src.task_vectors import TaskVector


@dataclass(frozen=True)
class LowRankForm:
    """What a vector changes, by entry; what it leaves as it is is in neither.

    factors: of matrices, on the CPU.
    whole: names of entries without factors.
    kept: the share of the matrices' squared norms that the factors keep.
    """

    factors: Mapping[str, Factors]
    whole: list[str]
    kept: float

    @classmethod
    def of(cls, vector: TaskVector, inputs: MergeInputs, rank: int | None, is_targetable: Callable[[str], bool]) -> "LowRankForm":
        """Return the form of a vector that was merged of `inputs`.

        rank: the largest that factors have; None for those that the vector itself is known by, and no others.
        is_targetable: returns whether an entry may have factors.
        """
        factors, whole, norms = {}, [], []
        transposed = _transposed(inputs)
        for key in vector:
            pair = vector.factors(key) if is_targetable(key) else None
            if pair is None and (rank is None or not (is_targetable(key) and _is_linear(key, inputs))):
                whole += [key] if vector[key].any() else []
                continue
            if rank is not None:
                kind = pair.kind if pair else LayerKind.TRANSPOSED if key in transposed else LayerKind.LINEAR
                pair, *squares = _leading(pair or vector[key], rank, kind)
                norms.append(squares)
            if pair.down.any():
                factors[key] = pair._replace(up=pair.up.cpu(), down=pair.down.cpu())
        kept, total = map(sum, zip(*norms)) if norms else (1.0, 1.0)
        return cls(factors, whole, kept / total if total else 1.0)


def _leading(change: Factors | Tensor, rank: int, kind: LayerKind) -> tuple[Factors, float, float]:
    """Return the factors, at most of this rank, nearest to a matrix or a product, with their squared norm and its own."""
    basis, matrix = None, change
    if isinstance(change, Factors):
        basis, triangle = torch.linalg.qr(change.up * change.scale)
        matrix = triangle @ change.down
    left, values, right = leading_triplets(matrix, min(rank, *matrix.shape))
    count, roots = int((values > 0).sum()), values.sqrt()
    up, down = (left * roots)[:, :count], (right * roots)[:, :count].T
    pair = Factors(up if basis is None else basis @ up, down, kind)
    return pair, values.double().square().sum().item(), matrix.double().square().sum().item()


def _is_linear(key: str, inputs: MergeInputs) -> bool:
    """Whether a parameter is surely the matrix of a linear layer, by its bias or its place in a numbered block: embeddings
    look alike, and peft would take no such factors for them."""
    return inputs.is_matrix(key) and (_bias(key) in inputs.outline or is_block_matrix(key))


def _bias(key: str) -> str:
    return f"{key.removesuffix('weight')}bias"


def _transposed(inputs: MergeInputs) -> set[str]:
    """Return the matrices that are (inputs, outputs), as their biases tell; of square ones, as the other matrices are."""
    biases = {key: inputs.outline[_bias(key)].numel() for key in inputs.outline
              if inputs.is_matrix(key) and _bias(key) in inputs.outline}  # fmt: skip
    shapes = {key: tuple(inputs.outline[key].shape) for key in biases}
    clear = {key for key, (rows, columns) in shapes.items() if biases[key] == columns != rows}
    return clear | {key for key, (rows, columns) in shapes.items() if clear and rows == columns}
