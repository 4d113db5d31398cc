"""The result of a merge: test scores beside those of the pre-trained and fine-tuned models, as a table and a record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, ClassVar

from rich.console import Console

from src.evaluation.scorer import Score
from src.evaluation.search import SearchPoint
from src.evaluation.selection import Selection
from src.experiments.record import Result, format_coefficient, format_means, half_width
from src.experiments.storage import Storage, storage_of
from src.experiments.tables import show_table
from src.merging.engine.inputs import MergeInputs
from src.state_dict import byte_size

MODELS = ("zeroshot", "finetuned", "merged")


@dataclass(frozen=True)
class TaskScores:
    """Test scores on one task."""

    zeroshot: Score
    finetuned: Score
    merged: Score

    @property
    def normalised(self) -> float:
        """Merged over fine-tuned accuracy, both measured here, on the same data."""
        return self.merged.accuracy / self.finetuned.accuracy if self.finetuned.right else 0.0

    @property
    def normalised_variance(self) -> float:
        """The variance of `normalised` to first order, both scores taken as independent: the truth is a little smaller."""
        if not self.finetuned.right:
            return 0.0
        relative = self.finetuned.variance / self.finetuned.accuracy**2
        return self.merged.variance / self.finetuned.accuracy**2 + self.normalised**2 * relative


@dataclass(frozen=True, kw_only=True)
class MergeResult(Result):
    """The result of a merge.

    coefficients: by task; None where it is not known (masks that do not say).
    curve: the points that the search evaluated.
    grid_size: number of coefficients that it chose from.
    scores: of test data, by task.
    summary: further measurements of the method, by name.
    bytes_stored: of the merged model, or of what all tasks' models are rebuilt from.
    scale_by_depth: LiNeS' factor of each block.
    storage: where each task has a model of its own.
    """

    kind: ClassVar[str] = "merge"

    coefficients: dict[str, float | None]
    curve: list[SearchPoint]
    grid_size: int
    scores: dict[str, TaskScores]
    summary: dict[str, float]
    bytes_stored: int
    scale_by_depth: list[tuple[str, float]] = field(default_factory=list)
    storage: Storage | None = None

    @classmethod
    def of(
        cls, selection: Selection, scores: Mapping[str, TaskScores], inputs: MergeInputs, disk_bytes: int | None, **about: Any
    ) -> "MergeResult":
        """Return the result of what was selected.

        disk_bytes: size of the bundle on disk; None if none was written.
        about: the fields of every `Result`.
        """
        merges, coefficients = selection.merges, selection.coefficients
        storage = storage_of(merges.compact(coefficients), inputs.pretrained, disk_bytes) if merges.compact else None
        accuracies = {model: {task: getattr(each, model).accuracy for task, each in scores.items()} for model in MODELS}
        return cls(
            coefficients=coefficients,
            curve=selection.curve,
            grid_size=selection.grid_size,
            scores=dict(scores),
            summary=selection.method.summary(**accuracies),
            scale_by_depth=merges.depth_profile(coefficients, inputs),
            bytes_stored=storage.bytes if storage else byte_size(inputs.pretrained),
            storage=storage,
            **about,
        )

    @property
    def coefficient(self) -> float | None:
        """The coefficient that all tasks have; None if they differ or are not known."""
        values = set(self.coefficients.values())
        return values.pop() if len(values) == 1 else None

    @property
    def heading(self) -> str:
        """The title with the coefficient."""
        unknown = "by task" if any(self.coefficients.values()) else "unknown"
        return f"{self.title}, coefficient {format_coefficient(self.coefficient, unknown)}"

    def means(self) -> dict[str, dict[str, float]]:
        """Return mean accuracies over tasks with the half width of their 95 % confidence interval."""
        tasks = self.scores.values()
        means = {}
        for model in MODELS:
            scores = [getattr(task, model) for task in tasks]
            means[model] = (fmean(score.accuracy for score in scores), half_width([score.variance for score in scores]))
        means["normalised"] = fmean(task.normalised for task in tasks), half_width([task.normalised_variance for task in tasks])
        return {name: {"mean": mean, "half_width_95": width} for name, (mean, width) in means.items()}

    def measurements(self) -> dict:
        return {
            "coefficient": self.coefficient,
            "coefficients": self.coefficients,
            "validation": [vars(point) for point in self.curve],
            "test": {
                task: {
                    **{model: getattr(scores, model).record() for model in MODELS},
                    "normalised": scores.normalised,
                }
                for task, scores in self.scores.items()
            },
            "means": self.means(),
            "evaluations": {"made": len(self.curve), "grid": self.grid_size},
            "summary": self.summary,
            "bytes_stored": self.bytes_stored,
            "storage": self.storage and {**vars(self.storage), "bits_per_task": self.storage.bits_per_task},
            "scale_by_depth": dict(self.scale_by_depth),
        }

    def show(self, console: Console) -> None:
        """Print the table: tasks by zero-shot, fine-tuned, merged and normalised accuracy, in percent."""
        differs_by_task = len(set(self.coefficients.values())) > 1
        rows = []
        for task, scores in self.scores.items():
            figures = (scores.zeroshot.accuracy, scores.finetuned.accuracy, scores.merged.accuracy, scores.normalised)
            own = [format_coefficient(self.coefficients[task], "-")] if differs_by_task else []
            rows.append([task, *own, *(f"{100 * figure:.1f}" for figure in figures)])
        headings = ("task", *["coefficient"] * differs_by_task, "zero-shot", "fine-tuned", "merged", "normalised")
        mean = ("mean", *[""] * differs_by_task, *format_means(self.means()))
        show_table(console, f"{self.heading}, test accuracy in %", headings, rows, mean)
        for name, figure in self.summary.items():
            console.print(f"{name}: {figure:.4f}", highlight=False)
        if len(self.curve) < self.grid_size:
            console.print(f"validation looked at {len(self.curve)} of {self.grid_size} coefficients", highlight=False)
        self.show_notes(console, self.storage.sentences() if self.storage else [])
