"""The result of a run: the record that all experiments share; they differ in their measurements."""

import math
import platform
import re
import resource
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import xxhash
from rich.console import Console

from src.runtime.files import write_json

FORMAT = 1  # of records: raise it when what a key means changes
Z95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """The result of one run.

    kind: the experiment, as its records name it.
    title: of its table.
    config: all options.
    choices: the names that were chosen of groups of options, by group.
    question: the options that decide the measurements.
    lineage: digests of the models, heads and data that went in.
    benchmark: the name that manifests give to these digests.
    seconds: duration.
    notes: sentences to print and to record.
    """

    kind: ClassVar[str]

    title: str
    config: dict
    choices: dict[str, str]
    question: dict
    lineage: dict
    benchmark: str
    seconds: float
    notes: list[str] = field(default_factory=list)

    @abstractmethod
    def measurements(self) -> dict:
        """Return the measurements, and what follows from them, as JSON values."""

    @abstractmethod
    def means(self) -> dict[str, dict[str, float]]:
        """Return the means of the measurements, with half widths of 95 % confidence intervals where they have one."""

    @abstractmethod
    def show(self, console: Console) -> None:
        """Print the table."""

    @property
    def name(self) -> str:
        """The title and a digest of question and lineage, so that a rerun replaces its own result."""
        suffix = xxhash.xxh3_64_hexdigest(repr((self.question, self.lineage)).encode())
        return f"{re.sub('[^A-Za-z0-9]+', '-', self.title).strip('-')}-{suffix[:8]}"

    def record(self) -> dict:
        """Return the record of the run as JSON values."""
        import torch  # which reports have no need to wait for

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
        cuda = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        return {
            "kind": self.kind,
            "format": FORMAT,
            "name": self.name,
            "question": self.question,
            "choices": self.choices,
            "config": self.config,
            **self.measurements(),
            "notes": self.notes,
            "seconds": self.seconds,
            "peak_memory_bytes": {"resident": peak, "cuda": cuda},
            "benchmark": self.benchmark,
            "lineage": self.lineage,
            "made_with": {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()},
        }

    def save(self, folder: Path) -> Path:
        """Write `<folder>/<name>.json`; return its path."""
        path = folder / f"{self.name}.json"
        write_json(path, self.record())
        return path

    def show_notes(self, console: Console, first: Sequence[str] = ()) -> None:
        """Print the lines below a table: the benchmark, `first`, then the notes."""
        console.print(f"benchmark: {self.benchmark}", highlight=False)
        for line in (*first, *self.notes):
            console.print(line, highlight=False, soft_wrap=True)


def half_width(variances: Sequence[float]) -> float:
    """Return half the 95 % confidence interval of the mean of independent scores with these sampling variances."""
    return Z95 * math.sqrt(sum(variances)) / len(variances)


def format_means(means: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return means with their intervals as tables show them, in percent."""
    return [f"{100 * mean['mean']:.1f} ± {100 * mean['half_width_95']:.1f}" for mean in means.values()]


def format_coefficient(coefficient: float | None, unknown: str) -> str:
    """Return a coefficient as tables show it; `unknown` for None."""
    return unknown if coefficient is None else f"{coefficient:.4g}"
