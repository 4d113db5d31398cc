"""The result of a merge: what is measured, what follows from it, the table a person reads and the record a program reads."""

from dataclasses import dataclass, field
from statistics import fmean

from rich.console import Console
from rich.table import Table

from src.evaluation.scorer import Score
from src.evaluation.search import Point
from src.experiments.record import Run, half_width, told
from src.experiments.storage import Storage


@dataclass(frozen=True)
class Row:
    """Test scores of one task."""

    zeroshot: Score
    finetuned: Score
    merged: Score

    @property
    def normalised(self) -> float:
        """Merged accuracy over fine-tuned accuracy, both measured here, on the same data."""
        return self.merged.accuracy / self.finetuned.accuracy if self.finetuned.right else 0.0

    @property
    def normalised_variance(self) -> float:
        """To first order, the two scores taken as independent: on the same data the truth is a little smaller."""
        if not self.finetuned.right:
            return 0.0
        relative = self.finetuned.variance / self.finetuned.accuracy**2
        return self.merged.variance / self.finetuned.accuracy**2 + self.normalised**2 * relative


@dataclass(frozen=True, kw_only=True)
class Result(Run):
    """What a merged model is worth.

    searched: the size of the grid that the curve's points are of; coefficients: by task, None where it is not known (masks
    that do not say).
    """

    coefficients: dict[str, float | None]
    curve: list[Point]
    searched: int
    rows: dict[str, Row]
    summary: dict[str, float]
    bytes_stored: int
    scale_by_depth: list[tuple[str, float]] = field(default_factory=list)
    storage: Storage | None = None

    @property
    def coefficient(self) -> float | None:
        """The one that all tasks have; None if they differ or are not known."""
        different = set(self.coefficients.values())
        return different.pop() if len(different) == 1 else None

    @property
    def heading(self) -> str:
        """The title with the coefficient."""
        unknown = "by task" if any(self.coefficients.values()) else "unknown"
        return f"{self.title}, coefficient {told(self.coefficient, unknown)}"

    def means(self) -> dict[str, dict[str, float]]:
        """Mean accuracies over tasks with the half width of their 95 % confidence interval."""
        rows = self.rows.values()
        found = {}
        for kind in ("zeroshot", "finetuned", "merged"):
            scores = [getattr(row, kind) for row in rows]
            found[kind] = (fmean(s.accuracy for s in scores), half_width([s.variance for s in scores]))
        normalised = fmean(row.normalised for row in rows), half_width([row.normalised_variance for row in rows])
        return {kind: {"mean": mean, "half_width_95": width}
                for kind, (mean, width) in {**found, "normalised": normalised}.items()}  # fmt: skip

    def figures(self) -> dict:
        return {
            "coefficient": self.coefficient,
            "coefficients": self.coefficients,
            "validation": [vars(point) for point in self.curve],
            "test": {
                task: {
                    **{kind: getattr(row, kind).record() for kind in ("zeroshot", "finetuned", "merged")},
                    "normalised": row.normalised,
                }
                for task, row in self.rows.items()
            },
            "means": self.means(),
            "evaluations": {"made": len(self.curve), "grid": self.searched},
            "summary": self.summary,
            "bytes_stored": self.bytes_stored,
            "storage": self.storage and {**vars(self.storage), "bits_per_task": self.storage.bits_per_task},
            "scale_by_depth": dict(self.scale_by_depth),
        }

    def show(self, console: Console) -> None:
        """Print the table: tasks by zero-shot, fine-tuned, merged and normalised accuracy, in percent."""
        title = f"{self.heading}, test accuracy in %"
        table = Table(title=title, min_width=len(title))
        table.add_column("task")
        by_task = len(set(self.coefficients.values())) > 1
        if by_task:
            table.add_column("coefficient", justify="right")
        for heading in ("zero-shot", "fine-tuned", "merged", "normalised"):
            table.add_column(heading, justify="right")
        for task, row in self.rows.items():
            figures = (row.zeroshot.accuracy, row.finetuned.accuracy, row.merged.accuracy, row.normalised)
            own = [told(self.coefficients[task], "-")] if by_task else []
            table.add_row(task, *own, *(f"{100 * figure:.1f}" for figure in figures))
        table.add_section()
        means = self.means()
        kinds = ("zeroshot", "finetuned", "merged", "normalised")
        cells = [""] if by_task else []
        table.add_row("mean", *cells, *(f"{100 * means[k]['mean']:.1f} ± {100 * means[k]['half_width_95']:.1f}" for k in kinds))
        console.print(table)
        for name, figure in self.summary.items():
            console.print(f"{name}: {figure:.4f}", highlight=False)
        if len(self.curve) < self.searched:
            console.print(f"validation looked at {len(self.curve)} of {self.searched} coefficients", highlight=False)
        self.show_notes(console, self.storage.sentences() if self.storage else [])
