"""Forgetting by negation (Ilharco et al., ICLR 2023): subtract a task's vector from the pre-trained model.

It should lose that task, the target, and keep another, the control task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from rich.console import Console

from src.data.task import Task
from src.evaluation.evaluator import Evaluator, accuracies
from src.evaluation.scorer import Score
from src.evaluation.search import SearchPoint
from src.experiments.record import Result, format_means, half_width
from src.experiments.tables import show_table
from src.task_vectors import TaskVector


@dataclass(frozen=True)
class TaskNegation:
    """The result of negating one task's vector.

    coefficient: what the vector is multiplied by before it is subtracted.
    curve: validation accuracies on the target and the control task, by coefficient.
    target, control: test scores of the pre-trained and of the negated model.
    """

    coefficient: float
    curve: list[SearchPoint]
    target: tuple[Score, Score]
    control: tuple[Score, Score]


def negate_all(
    evaluator: Evaluator, targets: Sequence[Task], control: Task, grid: Sequence[float], threshold: float
) -> dict[str, TaskNegation]:
    """Return the result of negating each target's vector, by task.

    Processes share the targets, for each needs the control's data again.
    """
    group, count, single = evaluator.scorer.group, evaluator.family.count, evaluator.single_process()
    assigned = [targets[number] for number in group.assign([count(task, "val") + count(control, "val") for task in targets])]
    own = {task.name: negate(single, task, control, grid, threshold) for task in assigned}
    by_task = {name: negation for process in group.all_gather(own) for name, negation in process.items()}
    return {task.name: by_task[task.name] for task in targets}


def control_losses(negations: Mapping[str, TaskNegation], control: str, threshold: float) -> list[str]:
    """Return a note on each negation that keeps less than `threshold` of the control's accuracy on test data."""
    shares = {task: negation.control[1].accuracy / negation.control[0].accuracy
              for task, negation in negations.items() if negation.control[0].right}  # fmt: skip
    return [
        f"without {task}, {control} keeps {100 * share:.0f} % of its accuracy on test data, where {100 * threshold:.0f} % "
        "was kept on validation data"
        for task, share in shares.items()
        if share < threshold
    ]


def negate(evaluator: Evaluator, target: Task, control: Task, grid: Sequence[float], threshold: float) -> TaskNegation:
    """Return the result of negating the target's vector, the coefficient chosen on validation data (see `best_negation`).

    The coefficient 0, the pre-trained model, is always among those evaluated.
    """
    pair = evaluator.on([target, control])
    vector = evaluator.inputs.only(target.name).vectors[target.name]  # one vector in memory
    coefficients = sorted({0.0, *grid})

    def negated(coefficient: float) -> dict[str, TaskVector]:
        return dict.fromkeys(pair.tasks, vector * -coefficient)

    scores = pair.sweep(negated, coefficients, "val", lambda coefficient: f"-{coefficient:.4g} x {target.name}")
    curve = [SearchPoint(coefficient, accuracies(score), -score[target.name].accuracy)
             for coefficient, score in zip(coefficients, scores, strict=True)]  # fmt: skip
    coefficient = best_negation(curve, target.name, control.name, threshold)
    vectors = [negated(0.0), negated(coefficient)]
    before, after = pair.merged(vectors, "test", ("the pre-trained model", "the negated model"))
    return TaskNegation(coefficient, curve, *((before[name], after[name]) for name in (target.name, control.name)))


def best_negation(curve: Sequence[SearchPoint], target: str, control: str, threshold: float) -> float:
    """Return the coefficient of the lowest target accuracy among those that keep the control accuracy; the first of equals.

    curve: starts at 0, the pre-trained model.
    threshold: share of the pre-trained model's control accuracy that is to be kept.
    """
    minimum = threshold * curve[0].accuracy[control]
    candidates = (point for point in curve if point.accuracy[control] >= minimum)
    return min(candidates, key=lambda point: point.accuracy[target]).coefficient


@dataclass(frozen=True, kw_only=True)
class NegationResult(Result):
    """The result of negating each of several task vectors.

    tasks: the result of each negation, by target.
    control: name of the task that was to be kept.
    """

    kind: ClassVar[str] = "negation"

    tasks: Mapping[str, TaskNegation]
    control: str

    def means(self) -> dict[str, dict[str, float]]:
        """Return mean test accuracies over tasks with the half width of their 95 % confidence interval.

        Targets are scored on data of their own, and their errors are independent. The control's are of the same data each
        time: its mean is no surer than one of them.
        """
        means = {}
        for kind in ("target", "control"):
            for column, model in enumerate(("pretrained", "negated")):
                scores = [getattr(negation, kind)[column] for negation in self.tasks.values()]
                widths = [half_width([score.variance]) for score in scores]
                width = fmean(widths) if kind == "control" else half_width([score.variance for score in scores])
                means[f"{kind}_{model}"] = {"mean": fmean(score.accuracy for score in scores), "half_width_95": width}
        return means

    def measurements(self) -> dict:
        rows = {
            task: {
                "coefficient": each.coefficient,
                "validation": [vars(point) for point in each.curve],
                "test": {kind: dict(zip(("pretrained", "negated"), (score.record() for score in getattr(each, kind))))
                         for kind in ("target", "control")},
            }
            for task, each in self.tasks.items()
        }  # fmt: skip
        return {"control": self.control, "tasks": rows, "means": self.means()}

    def show(self, console: Console) -> None:
        headings = ("task", "coefficient", "before", "after", f"{self.control} before", f"{self.control} after")
        rows = [
            [task, f"{each.coefficient:.4g}", *(f"{100 * score.accuracy:.1f}" for score in (*each.target, *each.control))]
            for task, each in self.tasks.items()
        ]
        mean = ("mean", "", *format_means(self.means()))
        show_table(console, f"{self.title}, test accuracy in %", headings, rows, mean)
        self.show_notes(console)
