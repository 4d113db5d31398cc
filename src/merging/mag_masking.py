"""Magnitude masking (the baseline of the TALL masks paper): each task keeps the merged entries it moved most itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from src.compact.form import Compact
from src.merging.engine.edits import smallest_kept
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.masks import MaskStack, Select, masked_compact
from src.merging.engine.trimming import VECTOR, check_percentage, check_scope, thresholds_by_parameter
from src.merging.method import MergeFamily, Method, Unscaled, multi_task_vector, require_shared


@dataclass(frozen=True, kw_only=True)
class MagMasking(Unscaled):
    """The base method's vector under masks of the largest entries of each task vector.

    k: percentage that a mask selects.
    base: makes the multi-task vector.
    scope: `vector` for that percentage of each task vector, `tensor` of each of its parameters.
    """

    k: float
    base: Method
    scope: str = VECTOR

    per_task = True

    def __post_init__(self):
        check_percentage(self.k, "mag_masking")
        check_scope(self.scope)
        require_shared(self.base)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        shared = multi_task_vector(self.base, inputs)
        thresholds = thresholds_by_parameter(inputs, self.k, self.scope)

        def prepare(key: str) -> Select:
            limits = [smallest_kept(threshold, inputs.outline[key].dtype).item() for threshold in thresholds[key]]
            return lambda part, stack: [[row >= limit for row, limit in zip(stack.abs_(), limits)]]

        stack = MaskStack(inputs, 1, prepare)

        def compact(coefficients: Mapping[str, float]) -> Compact:
            return masked_compact(inputs, shared, stack.at(dict.fromkeys(inputs.tasks, 0)))

        return MergeFamily.of_compact(inputs.tasks, compact)
