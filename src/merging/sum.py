"""Task arithmetic (Ilharco et al., ICLR 2023): the sum of the task vectors, times one coefficient."""

from dataclasses import dataclass

from src.merging.engine.inputs import MergeInputs
from src.merging.engine.trimming import check_percentage, trimmed
from src.merging.method import MergeFamily, Searched


@dataclass(frozen=True, kw_only=True)
class Sum(Searched):
    """The sum of the `k` percent largest entries of each task vector.

    k: percentage kept; 100 keeps all.
    """

    k: float

    def __post_init__(self):
        super().__post_init__()
        check_percentage(self.k, "sum")

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        total = self.summed_inputs(inputs).slicewise(lambda stack: stack.sum(0))
        return MergeFamily.shared(inputs.tasks, total)

    def summed_inputs(self, inputs: MergeInputs) -> MergeInputs:
        return trimmed(inputs, self.k)
