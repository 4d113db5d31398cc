"""Task arithmetic (Ilharco et al., ICLR 2023): the sum of the task vectors, times one coefficient."""

from dataclasses import dataclass

from src.merging.engine.inputs import MergeInputs
from src.merging.engine.trimming import VECTOR, check_percentage, check_scope, trimmed
from src.merging.method import MergeFamily, Searched


@dataclass(frozen=True, kw_only=True)
class Sum(Searched):
    """The sum of the `k` percent largest entries of each task vector.

    k: percentage kept; 100 keeps all.
    scope: `vector` for that percentage of each task vector, `tensor` of each of its parameters.
    """

    k: float
    scope: str = VECTOR

    def __post_init__(self):
        super().__post_init__()
        check_percentage(self.k, "sum")
        check_scope(self.scope)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        total = self.summed_inputs(inputs).slicewise(lambda stack: stack.sum(0))
        return MergeFamily.shared(inputs.tasks, total)

    def summed_inputs(self, inputs: MergeInputs) -> MergeInputs:
        return trimmed(inputs, self.k, self.scope)
