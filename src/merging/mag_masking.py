"""Magnitude masking (the baseline of the TALL masks paper): each task keeps the merged entries it moved most itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from src.compact import Compact
from src.merging.engine.inputs import Ingredients, smallest_kept
from src.merging.engine.masks import MaskStack, Select, check_base, masked_compact, multi_task_vector
from src.merging.engine.trimming import check_percentage, magnitude_floors
from src.merging.method import Family, Method, Unscaled


@dataclass(frozen=True, kw_only=True)
class MagMasking(Unscaled):
    """The base method's vector under masks of the `k` percent largest entries of each task vector."""

    k: float
    base: Method

    per_task = True

    def __post_init__(self):
        check_percentage(self.k, "mag_masking")
        check_base(self.base)

    def __call__(self, given: Ingredients) -> Family:
        shared = multi_task_vector(self.base, given)
        floors = magnitude_floors(given, self.k)

        def prepare(key: str) -> Select:
            kept = [smallest_kept(floor, given.outline[key].dtype).item() for floor in floors]
            return lambda part, stack: [[row >= floor for row, floor in zip(stack.abs_(), kept)]]

        stack = MaskStack(given, 1, prepare)

        def compact(coefficients: Mapping[str, float]) -> Compact:
            return masked_compact(given, shared, stack.chosen(dict.fromkeys(given.tasks, 0)))

        return Family.of_compact(given.tasks, compact)
