"""Task arithmetic (Ilharco et al., ICLR 2023): the sum of the task vectors, times one coefficient."""

from dataclasses import dataclass

from src.merging.engine.inputs import Ingredients
from src.merging.engine.trimming import check_percentage, trimmed
from src.merging.method import Family, Searched


@dataclass(frozen=True, kw_only=True)
class Sum(Searched):
    """The sum of the `k` percent largest entries of each task vector (100: of all)."""

    k: float

    def __post_init__(self):
        super().__post_init__()
        check_percentage(self.k, "sum")

    def __call__(self, given: Ingredients) -> Family:
        total = self.used(given).slicewise(lambda stack: stack.sum(0))
        return Family.shared(given.tasks, total)

    def used(self, given: Ingredients) -> Ingredients:
        return trimmed(given, self.k)
