"""A run's result: what is measured, what follows from it, the table a person reads and the record a program reads."""

import math
import platform
import re
import resource
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch
import xxhash
from rich.console import Console
from rich.table import Table

from src.evaluate import Score
from src.files import write_json
from src.search import Point
from src.storage import Storage

Z95 = 1.959964


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


def half_width(variances: list[float]) -> float:
    """Half the 95 % confidence interval of the mean of independent figures with these sampling variances."""
    return Z95 * math.sqrt(sum(variances)) / len(variances)


@dataclass(frozen=True)
class Result:
    """Everything one run found out.

    config: all options; question: those of them that decide the numbers; lineage: digests of all that went in;
    benchmark: what they add up to; searched: the size of the grid that the curve's points are of;
    coefficients: by task, None where it is not known (masks that do not say).
    """

    title: str
    config: dict
    question: dict
    lineage: dict
    benchmark: str
    coefficients: dict[str, float | None]
    curve: list[Point]
    searched: int
    rows: dict[str, Row]
    summary: dict[str, float]
    bytes_stored: int
    seconds: float
    scale_by_depth: list[tuple[str, float]] = field(default_factory=list)
    storage: Storage | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def coefficient(self) -> float | None:
        """The one that all tasks have; None if they differ or are not known."""
        different = set(self.coefficients.values())
        return different.pop() if len(different) == 1 else None

    @property
    def heading(self) -> str:
        """The title with the coefficient."""
        unknown = "by task" if any(self.coefficients.values()) else "unknown"
        return f"{self.title}, coefficient {_shown(self.coefficient, unknown)}"

    @property
    def name(self) -> str:
        """The same for the same question asked of the same models and data, so that a rerun replaces its own result."""
        asked = xxhash.xxh3_64_hexdigest(repr((self.question, self.lineage)).encode())
        return f"{re.sub('[^A-Za-z0-9]+', '-', self.title)}-{asked[:8]}"

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

    def record(self) -> dict:
        """As plain json values."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
        cuda = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        return {
            "name": self.name,
            "question": self.question,
            "config": self.config,
            "coefficient": self.coefficient,
            "coefficients": self.coefficients,
            "validation": [vars(point) for point in self.curve],
            "test": {
                task: {
                    **{kind: vars(getattr(row, kind)) | {"accuracy": getattr(row, kind).accuracy}
                       for kind in ("zeroshot", "finetuned", "merged")},
                    "normalised": row.normalised,
                }
                for task, row in self.rows.items()
            },
            "means": self.means(),
            "evaluations": {"made": len(self.curve), "grid": self.searched},
            "summary": self.summary,
            "bytes_stored": self.bytes_stored,
            "storage": self.storage and {**vars(self.storage), "bits_per_task": self.storage.bits_per_task},
            "notes": self.notes,
            "scale_by_depth": dict(self.scale_by_depth),
            "seconds": self.seconds,
            "peak_memory_bytes": {"resident": peak, "cuda": cuda},
            "benchmark": self.benchmark,
            "lineage": self.lineage,
            "made_with": {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()},
        }  # fmt: skip

    def save(self, folder: Path) -> Path:
        """Write `<folder>/<name>.json`; returns its path."""
        path = folder / f"{self.name}.json"
        write_json(path, self.record())
        return path

    def show(self, console: Console) -> None:
        """Print the table: tasks by zero-shot, fine-tuned, merged and normalised accuracy, in percent."""
        table = Table(title=f"{self.heading}, test accuracy in %")
        table.add_column("task")
        by_task = len(set(self.coefficients.values())) > 1
        if by_task:
            table.add_column("coefficient", justify="right")
        for heading in ("zero-shot", "fine-tuned", "merged", "normalised"):
            table.add_column(heading, justify="right")
        for task, row in self.rows.items():
            figures = (row.zeroshot.accuracy, row.finetuned.accuracy, row.merged.accuracy, row.normalised)
            own = [_shown(self.coefficients[task], "-")] if by_task else []
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
        console.print(f"benchmark: {self.benchmark}", highlight=False)
        for line in (*(self.storage.sentences() if self.storage else []), *self.notes):
            console.print(line, highlight=False, soft_wrap=True)


def _shown(coefficient: float | None, unknown: str) -> str:
    return unknown if coefficient is None else f"{coefficient:.4g}"
