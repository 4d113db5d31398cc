"""One task's vector, scored on its own task (target) and on all others (control), as LiNeS' first experiment does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from src.errors import UserError
from src.merging.engine.inputs import MergeInputs
from src.merging.lines import scaled_by_depth
from src.merging.method import Accuracies, Fixed, MergeFamily, Method, Wrapper, check_grid, normalised, respace
from src.task_vectors import TaskVector
from src.validation import is_number, is_whole


@dataclass(frozen=True, kw_only=True)
class SingleTask(Fixed):
    """The vector of task number `task_index` (from 0, in the order of the task list).

    tradeoff_target_weight: weight of the target's normalised accuracy against the mean of the controls', under LiNeS.
    floors: values of LiNeS' alpha that are tried.
    """

    task_index: int
    tradeoff_target_weight: float
    floors: Sequence[float]

    combines = False

    def __post_init__(self):
        if not is_whole(self.task_index):
            raise UserError(f"method.task_index is a whole number that counts tasks from 0; got {self.task_index}")
        if not is_number(self.tradeoff_target_weight) or self.tradeoff_target_weight < 0:
            raise UserError(f"method.tradeoff_target_weight is a number, not negative; got {self.tradeoff_target_weight}")
        check_grid("method.floors", self.floors)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        self.target(tasks)

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        vector = inputs.vectors[self.target(inputs.tasks)]
        return MergeFamily.shared(inputs.tasks, vector)

    def coefficient(self, tasks: int) -> float:
        return 1.0

    def target(self, tasks: Sequence[str]) -> str:
        """Return the name of task number `task_index`. Raise UserError if `tasks` has no such task."""
        if self.task_index >= len(tasks):
            numbered = ", ".join(f"{number} {task}" for number, task in enumerate(tasks))
            raise UserError(f"method.task_index={self.task_index}, but the tasks are {numbered}")
        return tasks[self.task_index]

    def trade_off(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> float:
        """Return weight x target accuracy over the fine-tuned model's + mean control accuracy over the zero-shot model's."""
        target = self.target(list(merged))
        controls = [normalised(merged[task], zeroshot[task]) for task in merged if task != target]
        mean_control = fmean(controls) if controls else 0.0
        return self.tradeoff_target_weight * normalised(merged[target], finetuned[target]) + mean_control

    def summary(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> dict[str, float]:
        target = self.target(list(merged))
        controls = [task for task in merged if task != target]
        figures = {f"target {target}": merged[target]}
        if controls:
            figures["mean control"] = fmean(merged[task] for task in controls)
            figures["mean control, zero-shot"] = fmean(zeroshot[task] for task in controls)
        return {**figures, "trade-off": self.trade_off(merged, finetuned, zeroshot)}

    def lines_form(self) -> Method | None:
        return SingleTaskLiNeS(base=self, grid=self.floors)


@dataclass(frozen=True, kw_only=True)
class SingleTaskLiNeS(Wrapper):
    """LiNeS on one task vector: alpha is searched from 1 down, and beta is 1 - alpha.

    The deepest block keeps the whole vector; a lower alpha keeps more of what the pre-trained model can do elsewhere.
    """

    base: SingleTask
    grid: Sequence[float]

    def lines_form(self) -> Method | None:
        raise UserError("LiNeS scales by depth already; leave method.apply_lines out")

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        vector = self.base(inputs)(1.0)[self.base.target(inputs.tasks)]

        def scale(alpha: float, depth: float | None) -> float:
            return alpha + (1 - alpha) * (depth or 0.0)

        def vectors(alpha: float) -> dict[str, TaskVector]:
            return dict.fromkeys(inputs.tasks, scaled_by_depth(vector, inputs.depth, lambda depth: scale(alpha, depth)))

        return MergeFamily(vectors, scale)

    def coefficients(self, tasks: int) -> tuple[float, ...]:
        return tuple(self.grid)

    def respaced(self, points: int) -> Method:
        return replace(self, grid=respace(self.grid, points))

    def criterion(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> float:
        return self.base.trade_off(merged, finetuned, zeroshot)
