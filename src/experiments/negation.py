"""Forgetting by negation (Ilharco et al., ICLR 2023): the pre-trained model minus a task's vector, which should lose that
task and keep another, the control task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from rich.console import Console
from rich.table import Table

from src.data.task import Task
from src.evaluation.evaluator import Measurement, accuracies
from src.evaluation.scorer import Score
from src.evaluation.search import Point
from src.experiments.record import Run, half_width
from src.task_vectors import TaskVector


@dataclass(frozen=True)
class Negated:
    """What negating one task's vector does. curve: validation accuracies on the target and the control task, by coefficient;
    target, control: test scores of the pre-trained and of the negated model."""

    coefficient: float
    curve: list[Point]
    target: tuple[Score, Score]
    control: tuple[Score, Score]


def all_negated(
    measured: Measurement, targets: Sequence[Task], control: Task, grid: Sequence[float], threshold: float
) -> dict[str, Negated]:
    """What negating each target's vector does; the team shares the targets, for each needs the control's data again."""
    team, count = measured.scorer.team, measured.scorer.family.count
    mine = team.share([count(task, "val") + count(control, "val") for task in targets])
    done = {targets[number].name: negated(measured.alone(), targets[number], control, grid, threshold) for number in mine}
    everyone = {name: found for part in team.gathered(done) for name, found in part.items()}
    return {task.name: everyone[task.name] for task in targets}


def lost(found: Mapping[str, Negated], control: str, threshold: float) -> list[str]:
    """A note on each negation that keeps less of the control on test data than was asked of it on validation data."""
    kept = {task: each.control[1].accuracy / each.control[0].accuracy for task, each in found.items() if each.control[0].right}
    return [
        f"without {task}, {control} keeps {100 * share:.0f} % of its accuracy on test data, where {100 * threshold:.0f} % "
        "was kept on validation data"
        for task, share in kept.items()
        if share < threshold
    ]


def negated(measured: Measurement, target: Task, control: Task, grid: Sequence[float], threshold: float) -> Negated:
    """Of the coefficients of `grid` at which control accuracy is at least `threshold` times the pre-trained model's, the one
    with the lowest target accuracy, the first of equals, on validation data; and what it does to test data.

    The coefficient 0, the pre-trained model, is always among those looked at.
    """
    pair, given = measured.on([target, control]), measured.given
    alone = replace(given, finetuned={target.name: given.finetuned[target.name]}, shared={})  # one vector in memory
    move = alone.vectors[target.name]
    coefficients = sorted({0.0, *grid})

    def models(tried: Sequence[float]) -> list[dict[str, TaskVector]]:
        return [dict.fromkeys(pair.tasks, move * -coefficient) for coefficient in tried]

    found = []
    for start in range(0, len(coefficients), measured.at_once):
        part = coefficients[start : start + measured.at_once]
        names = [f"-{coefficient:.4g} x {target.name}" for coefficient in part]
        found += pair.merged(models(part), "val", names)
    curve = [Point(coefficient, accuracies(scores), -scores[target.name].accuracy)
             for coefficient, scores in zip(coefficients, found, strict=True)]  # fmt: skip
    coefficient = chosen(curve, target.name, control.name, threshold)
    before, after = pair.merged(models((0.0, coefficient)), "test", ("the pre-trained model", "the negated model"))
    return Negated(coefficient, curve, *((before[name], after[name]) for name in (target.name, control.name)))


def chosen(curve: Sequence[Point], target: str, control: str, threshold: float) -> float:
    """The coefficient of the lowest target accuracy among those that keep the control accuracy; the curve starts at 0."""
    least = threshold * curve[0].accuracy[control]
    return min(
        (point for point in curve if point.accuracy[control] >= least), key=lambda point: point.accuracy[target]
    ).coefficient


@dataclass(frozen=True, kw_only=True)
class Negation(Run):
    """tasks: what negating each task's vector does; control: the task that was to be kept."""

    tasks: Mapping[str, Negated]
    control: str

    def means(self) -> dict[str, dict[str, float]]:
        """Mean test accuracies over tasks with the half width of their 95 % confidence interval.

        Targets are scored on data of their own, and their errors are independent. The control's are of the same data each
        time: its mean is no surer than one of them.
        """
        found = {}
        for kind in ("target", "control"):
            for place, model in enumerate(("pretrained", "negated")):
                scores = [getattr(each, kind)[place] for each in self.tasks.values()]
                one_by_one = [half_width([score.variance]) for score in scores]
                width = fmean(one_by_one) if kind == "control" else half_width([score.variance for score in scores])
                found[f"{kind}_{model}"] = {"mean": fmean(score.accuracy for score in scores), "half_width_95": width}
        return found

    def figures(self) -> dict:
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
        title = f"{self.title}, test accuracy in %"
        table = Table(title=title, min_width=len(title))
        table.add_column("task")
        headings = ("coefficient", "before", "after", f"{self.control} before", f"{self.control} after")
        for heading in headings:
            table.add_column(heading, justify="right")
        for task, each in self.tasks.items():
            accuracy = (f"{100 * score.accuracy:.1f}" for score in (*each.target, *each.control))
            table.add_row(task, f"{each.coefficient:.4g}", *accuracy)
        table.add_section()
        cells = (f"{100 * mean['mean']:.1f} ± {100 * mean['half_width_95']:.1f}" for mean in self.means().values())
        table.add_row("mean", "", *cells)
        console.print(table)
        self.show_notes(console)
