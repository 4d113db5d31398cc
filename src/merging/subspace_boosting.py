"""Subspace Boosting (Skorobogat et al., 2025): a merged vector whose matrices' small singular values are raised, so that
the tasks' directions do not vanish among those that all share."""

from dataclasses import dataclass

from torch import Tensor

from src.errors import collect, raise_any
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.linear_algebra import Triplets, leading_triplets
from src.merging.engine.matrices import SPLIT, check_attention, matrix_names, matrix_pattern, per_matrix
from src.merging.engine.threads import Prefetched
from src.merging.method import MergeFamily, Method, Wrapper, require_shared
from src.state_dict import Lazy, Memoized
from src.task_vectors import TaskVector
from src.validation import is_number


@dataclass(frozen=True)
class SubspaceBoosting(Wrapper):
    """The base method's vector, of whose matrices no singular value is below the one where `beta` of their sum is reached.

    beta: share of the sum of the singular values; near 0, all are raised to the largest.
    matrices, attention: as of methods that merge matrices; all other entries are the base method's.
    """

    beta: float
    matrices: str
    attention: str

    def __post_init__(self):
        require_shared(self.base)
        problems: list[str] = []
        if not (is_number(self.beta) and 0 <= self.beta <= 1):
            problems.append(f"method.beta is a share, 0 to 1; got {self.beta}")
        with collect(problems):
            matrix_pattern(self.matrices)
        with collect(problems):
            check_attention(self.attention)
        raise_any(problems)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        family, names = self.base(inputs), set(matrix_names(inputs, self.matrices))

        def boosted(vector: TaskVector) -> TaskVector:
            matrices = Prefetched(
                (key for key in vector if key in names and inputs.changed(key)),
                lambda key: per_matrix(self.attention == SPLIT, key, vector[key], self._boosted).contiguous(),
                inputs.device,
            )

            def entry(key: str) -> Tensor:
                return matrices[key] if key in matrices else vector[key]

            return TaskVector.of((Memoized if inputs.keep else Lazy)(inputs.outline, entry))

        def vectors(coefficient: float) -> dict[str, TaskVector]:
            merged = multiples.at(coefficient) if multiples else boosted(next(iter(family(coefficient).values())))
            return dict.fromkeys(inputs.tasks, merged)

        multiples = family.multiples and family.multiples._replace(vector=boosted(family.multiples.vector))
        return MergeFamily(vectors, multiples=multiples, masks=family.masks)

    def _boosted(self, matrix: Tensor) -> Tensor:
        """Return a matrix, (m, n), with its small singular values raised; those that are zero have no vectors, and stay."""
        left, values, right = leading_triplets(matrix, min(matrix.shape))
        sums = values.double().cumsum(0)
        place = int((sums < self.beta * sums[-1]).sum())
        return Triplets(left, values.clamp_min(values[min(place, len(values) - 1)]), right).product

    @property
    def is_isotropic(self) -> bool:
        return True

    @property
    def splits_attention(self) -> bool:
        return self.attention == SPLIT or self.base.splits_attention

    @property
    def decomposes(self) -> bool:
        return True

    def lines_form(self) -> Method | None:
        return None
