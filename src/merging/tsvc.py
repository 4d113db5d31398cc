"""TSV-C (Gargiulo et al., CVPR 2025, Task Singular Vectors): every task keeps the leading singular triplets of its own
matrices, in factors that take a fraction of the room."""

from dataclasses import dataclass
from functools import cache

from torch import Tensor

from src.compact import ENTRY, LEFT, RIGHT, Compact
from src.errors import UserError
from src.merging.cores import side_by_side
from src.merging.ingredients import Ingredients
from src.merging.linear_algebra import leading_triplets
from src.merging.method import Family, Unscaled, is_number
from src.state_dict import Lazy


@dataclass(frozen=True, kw_only=True)
class TSVC(Unscaled):
    """Of every matrix (text projection included) each task keeps `rank_fraction` of its singular triplets; null: 1/T.

    Entries that are no matrices are kept as they are, and so are matrices of which all triplets are kept.
    """

    rank_fraction: float | None

    per_task = True

    def __post_init__(self):
        if self.rank_fraction is not None and (not is_number(self.rank_fraction) or not 0 < self.rank_fraction <= 1):
            raise UserError(f"method.rank_fraction is in (0, 1], or null for 1/T; got {self.rank_fraction}")

    def __call__(self, given: Ingredients) -> Family:
        share = 1 / len(given.tasks) if self.rank_fraction is None else self.rank_fraction
        changed = {key: leaf for key, leaf in given.outline.items() if given.changed(key)}
        ranks = {key: int(min(leaf.shape) * share) for key, leaf in changed.items() if leaf.ndim == 2}
        cut = {key: rank for key, rank in ranks.items() if rank < min(changed[key].shape)}

        @cache
        def truncated(key: str) -> list[dict[str, Tensor]]:
            with given.stacked(key) as stack:
                return list(side_by_side(lambda matrix: _stored(key, matrix, cut[key]), stack, given.device))

        def part(row: int, task: str) -> Lazy:
            shapes = {}
            for key, leaf in changed.items():
                shapes |= _stored(key, leaf, cut[key]) if key in cut else {ENTRY + key: leaf}
            origin = {name: name.partition("/")[2] for name in shapes}

            def entry(name: str) -> Tensor:
                key = origin[name]
                return truncated(key)[row][name] if key in cut else given.vectors[task][key]

            return Lazy(shapes, entry)

        made = Compact(given.outline, {task: part(row, task) for row, task in enumerate(given.tasks)})
        return Family.of_compact(given.tasks, lambda coefficients: made)


def _stored(key: str, matrix: Tensor, rank: int) -> dict[str, Tensor]:
    """What is kept of a matrix, (m, n): its `rank` leading triplets as two factors, or their product if that is smaller.

    Of a meta tensor, the shapes.
    """
    rows, columns = matrix.shape
    small = rank * (rows + columns) < rows * columns
    if matrix.is_meta:
        left, right = matrix.new_empty(rows, rank), matrix.new_empty(rank, columns)
        return {LEFT + key: left, RIGHT + key: right} if small else {ENTRY + key: matrix}
    found = leading_triplets(matrix, rank)
    if small:
        return {LEFT + key: found.left * found.values, RIGHT + key: found.right.T.contiguous()}
    return {ENTRY + key: found.product}
