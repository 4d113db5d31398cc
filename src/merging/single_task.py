"""One task's vector, scored on its own task (target) and on all others (control), as LiNeS' first experiment does."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from src.errors import UserError
from src.merging.engine.inputs import Ingredients
from src.merging.lines import scaled_by_depth
from src.merging.method import Accuracies, Family, Fixed, Method, Searched, check_grid, is_number, over


@dataclass(frozen=True, kw_only=True)
class SingleTask(Fixed):
    """The vector of task number `task_index` (from 0, in the order of the task list).

    floors: the values of LiNeS' floor (alpha) tried with `by_depth`; tradeoff_target_weight: what the target's
    normalised accuracy weighs against the mean of the controls' there.
    """

    task_index: int
    tradeoff_target_weight: float
    floors: Sequence[float]

    def __post_init__(self):
        if type(self.task_index) is not int or self.task_index < 0:
            raise UserError(f"method.task_index is a whole number that counts tasks from 0; got {self.task_index}")
        if not is_number(self.tradeoff_target_weight) or self.tradeoff_target_weight < 0:
            raise UserError(f"method.tradeoff_target_weight is a number, not negative; got {self.tradeoff_target_weight}")
        check_grid("method.floors", self.floors)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        self.target(tasks)

    def __call__(self, given: Ingredients) -> Family:
        vector = given.vectors[self.target(given.tasks)]
        return Family.shared(given.tasks, vector)

    def coefficient(self, tasks: int) -> float:
        return 1.0

    def target(self, tasks: Sequence[str]) -> str:
        """The name of the task; UserError if there are not so many."""
        if self.task_index >= len(tasks):
            numbered = ", ".join(f"{number} {task}" for number, task in enumerate(tasks))
            raise UserError(f"method.task_index={self.task_index}, but the tasks are {numbered}")
        return tasks[self.task_index]

    def trade_off(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> float:
        """Weight x target accuracy over the fine-tuned model's + mean control accuracy over the zero-shot model's."""
        target = self.target(list(merged))
        kept = [over(merged[task], zeroshot[task]) for task in merged if task != target]
        return self.tradeoff_target_weight * over(merged[target], finetuned[target]) + (fmean(kept) if kept else 0.0)

    def summary(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> dict[str, float]:
        target = self.target(list(merged))
        controls = [task for task in merged if task != target]
        found = {f"target {target}": merged[target]}
        if controls:
            found["mean control"] = fmean(merged[task] for task in controls)
            found["mean control, zero-shot"] = fmean(zeroshot[task] for task in controls)
        return {**found, "trade-off": self.trade_off(merged, finetuned, zeroshot)}

    def by_depth(self) -> Method:
        return SingleTaskLiNeS(grid=self.floors, base=self)


@dataclass(frozen=True, kw_only=True)
class SingleTaskLiNeS(Searched):
    """LiNeS on one task vector: the floor is searched from 1 down, and the slope is what it leaves to 1.

    The deepest block keeps the whole vector; a lower floor keeps more of what the pre-trained model can do elsewhere.
    """

    base: SingleTask

    def __call__(self, given: Ingredients) -> Family:
        vector = self.base(given)(1.0)[self.base.target(given.tasks)]

        def scale(floor: float, depth: float | None) -> float:
            return floor + (1 - floor) * (depth or 0.0)

        return Family(lambda floor: dict.fromkeys(given.tasks, scaled_by_depth(vector, given.depth, scale, floor)), scale)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        self.base.check_tasks(tasks)

    def objective(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> float:
        return self.base.trade_off(merged, finetuned, zeroshot)

    def summary(self, merged: Accuracies, finetuned: Accuracies, zeroshot: Accuracies) -> dict[str, float]:
        return self.base.summary(merged, finetuned, zeroshot)
