"""TSV-C (Gargiulo et al., CVPR 2025, Task Singular Vectors): every task keeps the leading singular triplets of its own
matrices, in factors that take a fraction of the space."""

from dataclasses import dataclass
from functools import cache

from torch import Tensor

from src.compact.form import ENTRY, LEFT, RIGHT, Compact
from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.linear_algebra import leading_triplets
from src.merging.method import MergeFamily, Unscaled
from src.state_dict import Lazy
from src.validation import is_number


@dataclass(frozen=True, kw_only=True)
class TSVC(Unscaled):
    """Each task keeps the leading singular triplets of its own matrices (text projection included).

    Entries that are no matrices are kept as they are, and so are matrices of which all triplets are kept.

    rank_fraction: share of a matrix's triplets that a task keeps; None for 1/T.
    """

    rank_fraction: float | None

    per_task = True
    decomposes = True

    def __post_init__(self):
        if self.rank_fraction is not None and (not is_number(self.rank_fraction) or not 0 < self.rank_fraction <= 1):
            raise UserError(f"method.rank_fraction is in (0, 1], or null for 1/T; got {self.rank_fraction}")

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        share = 1 / len(inputs.tasks) if self.rank_fraction is None else self.rank_fraction
        changed = {key: leaf for key, leaf in inputs.outline.items() if inputs.changed(key)}
        cut = {key: leaf for key, leaf in changed.items() if leaf.ndim == 2 and _rank(leaf, share) < min(leaf.shape)}
        factors = inputs.each_parameter(cut, lambda _, stack: [_truncated(matrix, share) for matrix in stack])
        factors_of = cache(factors.__getitem__)

        def part(row: int, task: str) -> Lazy:
            sources = {}  # of each stored tensor: its parameter, and which of its factors it is
            shapes: dict[str, Tensor] = {}
            for key, leaf in changed.items():
                forms = _shapes(leaf, share) if key in cut else (leaf,)
                names = [LEFT + key, RIGHT + key] if len(forms) == 2 else [ENTRY + key]
                shapes |= dict(zip(names, forms))
                sources |= {name: (key, number) for number, name in enumerate(names)}

            def entry(name: str) -> Tensor:
                key, number = sources[name]
                return factors_of(key)[row][number] if key in cut else inputs.vectors[task][key]

            return Lazy(shapes, entry)

        compact = Compact(inputs.outline, {task: part(row, task) for row, task in enumerate(inputs.tasks)})
        return MergeFamily.of_compact(inputs.tasks, lambda coefficients: compact)


def _rank(matrix: Tensor, share: float) -> int:
    return int(min(matrix.shape) * share)


def _shapes(matrix: Tensor, share: float) -> tuple[Tensor, ...]:
    """Return the outline of `_truncated`: two factors, or their product where that is smaller."""
    (rows, columns), rank = matrix.shape, _rank(matrix, share)
    if rank * (rows + columns) >= rows * columns:
        return (matrix,)
    return matrix.new_empty(rows, rank, device="meta"), matrix.new_empty(rank, columns, device="meta")


def _truncated(matrix: Tensor, share: float) -> tuple[Tensor, ...]:
    """Return the leading triplets of a matrix, (m, n), as what is stored of them."""
    triplets = leading_triplets(matrix, _rank(matrix, share))
    if len(_shapes(matrix, share)) == 1:
        return (triplets.product,)
    return triplets.left * triplets.values, triplets.right.T.contiguous()
