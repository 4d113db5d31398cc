"""What the record of every run tells, whatever was asked; runs differ in their figures."""

import math
import platform
import re
import resource
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import xxhash
from rich.console import Console

from src.runtime.files import write_json

Z95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class Run(ABC):
    """Everything one run found out.

    config: all options; question: those of them that decide the numbers; lineage: digests of all that went in;
    benchmark: what they add up to; notes: sentences to print and to keep.
    """

    title: str
    config: dict
    question: dict
    lineage: dict
    benchmark: str
    seconds: float
    notes: list[str] = field(default_factory=list)

    @abstractmethod
    def figures(self) -> dict:
        """What was measured and what follows from it, as plain json values."""

    @abstractmethod
    def means(self) -> dict[str, dict[str, float]]:
        """The figures that sum it up, each with the half width of its 95 % confidence interval where it has one."""

    @abstractmethod
    def show(self, console: Console) -> None:
        """Print the table."""

    @property
    def name(self) -> str:
        """The same for the same question asked of the same models and data, so that a rerun replaces its own result."""
        asked = xxhash.xxh3_64_hexdigest(repr((self.question, self.lineage)).encode())
        return f"{re.sub('[^A-Za-z0-9]+', '-', self.title).strip('-')}-{asked[:8]}"

    def record(self) -> dict:
        """As plain json values."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
        cuda = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        return {
            "name": self.name,
            "question": self.question,
            "config": self.config,
            **self.figures(),
            "notes": self.notes,
            "seconds": self.seconds,
            "peak_memory_bytes": {"resident": peak, "cuda": cuda},
            "benchmark": self.benchmark,
            "lineage": self.lineage,
            "made_with": {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()},
        }

    def save(self, folder: Path) -> Path:
        """Write `<folder>/<name>.json`; returns its path."""
        path = folder / f"{self.name}.json"
        write_json(path, self.record())
        return path

    def show_notes(self, console: Console, first: Sequence[str] = ()) -> None:
        """Print what stands below a table."""
        console.print(f"benchmark: {self.benchmark}", highlight=False)
        for line in (*first, *self.notes):
            console.print(line, highlight=False, soft_wrap=True)


def half_width(variances: Sequence[float]) -> float:
    """Half the 95 % confidence interval of the mean of independent figures with these sampling variances."""
    return Z95 * math.sqrt(sum(variances)) / len(variances)


def told(coefficient: float | None, unknown: str) -> str:
    """A coefficient as tables have it."""
    return unknown if coefficient is None else f"{coefficient:.4g}"
