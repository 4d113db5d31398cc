"""Individual models: every task keeps its own vector as it is, for bundles to quantise and compact forms to be compared with."""

from dataclasses import dataclass, replace

from src.compact.form import ENTRY, Compact
from src.merging.engine.inputs import MergeInputs
from src.merging.method import MergeFamily, Unscaled
from src.state_dict import Lazy, StateDict, outline, renamed
from src.task_vectors import ModelVector


@dataclass(frozen=True)
class Individual(Unscaled):
    """Each task's own vector, whole: the fine-tuned models themselves."""

    per_task = True

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        streamed = replace(inputs, keep=False).vectors
        names = {ENTRY + key: key for key in inputs.outline if inputs.changed(key)}
        compact = Compact(inputs.outline, {task: renamed(vector, names) for task, vector in streamed.items()})
        copies = {task: _copied(model) for task, model in inputs.finetuned.items()}
        vectors = {task: ModelVector.of_models(compact.vector(task), inputs.pretrained, copy) for task, copy in copies.items()}
        return MergeFamily(lambda coefficient: vectors, compact=lambda coefficients: compact)


def _copied(model: StateDict) -> Lazy:
    """Return a model whose entries have memory of their own, as all that methods make has."""
    return Lazy(outline(model), lambda key: model[key].clone())
