"""The accuracy of each task's own model, or of the pre-trained one: what merges are measured against."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from rich.console import Console

from src.evaluation.scorer import Score
from src.experiments.record import Result, format_means, half_width
from src.experiments.tables import show_table

SPLITS = {"val": "validation", "test": "test"}  # with their headings


@dataclass(frozen=True, kw_only=True)
class SingleTaskResult(Result):
    """The result of scoring models on their own tasks.

    scores: by task and split.
    """

    kind: ClassVar[str] = "single_task"

    scores: Mapping[str, Mapping[str, Score]]

    def means(self) -> dict[str, dict[str, float]]:
        """Return mean accuracies over tasks with the half width of their 95 % confidence interval."""
        columns = {split: [scores[split] for scores in self.scores.values()] for split in SPLITS}
        return {
            split: {
                "mean": fmean(score.accuracy for score in column),
                "half_width_95": half_width([score.variance for score in column]),
            }
            for split, column in columns.items()
        }

    def measurements(self) -> dict:
        rows = {task: {split: score.record() for split, score in scores.items()} for task, scores in self.scores.items()}
        return {"scores": rows, "means": self.means()}

    def show(self, console: Console) -> None:
        rows = [
            [
                task,
                *(f"{100 * scores[split].accuracy:.1f} ± {100 * half_width([scores[split].variance]):.1f}" for split in SPLITS),
            ]
            for task, scores in self.scores.items()
        ]
        mean = ("mean", *format_means(self.means()))
        show_table(console, f"{self.title}, accuracy in %", ("task", *SPLITS.values()), rows, mean)
        self.show_notes(console)
