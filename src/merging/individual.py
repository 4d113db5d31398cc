"""Individual models: every task keeps its own vector as it is, for bundles to quantise and compact forms to be compared with."""

from dataclasses import dataclass, replace

from src.compact.form import ENTRY, Compact
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Unscaled
from src.state_dict import renamed
from src.task_vectors import ModelVector


@dataclass(frozen=True)
class Individual(Unscaled):
    """Each task's own vector, whole: the fine-tuned models themselves."""

    per_task = True

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        streamed = replace(inputs, keep=False).vectors
        names = {ENTRY + key: key for key in inputs.outline if inputs.changed(key)}
        compact = Compact(inputs.outline, {task: renamed(vector, names) for task, vector in streamed.items()})
        vectors = {task: ModelVector.of_models(compact.vector(task), inputs.pretrained, model)
                   for task, model in inputs.finetuned.items()}  # fmt: skip
        return MergeFamily(lambda coefficient: vectors, compact=lambda coefficients: compact)
