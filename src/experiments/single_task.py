"""The accuracy of each task's own model, or of the pre-trained one: what merges are measured against."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from rich.console import Console
from rich.table import Table

from src.evaluation.scorer import Score
from src.experiments.record import Run, half_width

SPLITS = {"val": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class SingleTaskResult(Run):
    """The result of scoring models on their own tasks.

    scores: by task and split.
    """

    kind: ClassVar[str] = "single_task"

    scores: Mapping[str, Mapping[str, Score]]

    def means(self) -> dict[str, dict[str, float]]:
        """Return mean accuracies over tasks with the half width of their 95 % confidence interval."""
        columns = {split: [scores[split] for scores in self.scores.values()] for split in SPLITS}
        return {split: {"mean": fmean(s.accuracy for s in column), "half_width_95": half_width([s.variance for s in column])}
                for split, column in columns.items()}  # fmt: skip

    def figures(self) -> dict:
        rows = {task: {split: score.record() for split, score in scores.items()} for task, scores in self.scores.items()}
        return {"scores": rows, "means": self.means()}

    def show(self, console: Console) -> None:
        title = f"{self.title}, accuracy in %"
        table = Table(title=title, min_width=len(title))
        table.add_column("task")
        for name in SPLITS.values():
            table.add_column(name, justify="right")
        for task, scores in self.scores.items():
            cells = (f"{100 * scores[split].accuracy:.1f} ± {100 * half_width([scores[split].variance]):.1f}" for split in SPLITS)
            table.add_row(task, *cells)
        table.add_section()
        means = self.means()
        table.add_row("mean", *(f"{100 * means[s]['mean']:.1f} ± {100 * means[s]['half_width_95']:.1f}" for s in SPLITS))
        console.print(table)
        self.show_notes(console)
