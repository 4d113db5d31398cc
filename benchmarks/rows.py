"""Figures measured one row at a time: each is printed and written once measured, and one that fails stops no other."""

import contextlib
import gc
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from src.runtime.files import write_json, written_beside

Figures = dict[str, float | str]


@dataclass(frozen=True)
class Row:
    """One thing to measure.

    section: the table it stands in.
    name: its first cell.
    measure: returns its figures by column heading.
    """

    section: str
    name: str
    measure: Callable[[], Figures]


@dataclass
class Report:
    """The rows measured so far, written to `<name>.json` and `<name>.md` of a folder after each.

    facts: names and versions of the device and the libraries.
    deadline: the `time.monotonic()` after which no row is begun.
    """

    folder: Path
    name: str
    facts: dict[str, str]
    deadline: float = math.inf
    rows: list[dict] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Measure a row unless time is up; print and write its figures, or why it failed."""
        started = time.monotonic()
        if started > self.deadline:
            figures: Figures = {"skipped": "the minutes were over"}
        else:
            try:
                figures = row.measure()
            except Exception as error:  # whatever it is, the rows to come may succeed
                traceback.print_exc()
                figures = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        gc.collect()
        with contextlib.suppress(RuntimeError):  # after some errors a GPU answers nothing any more
            torch.cuda.empty_cache()
        self.rows.append({"section": row.section, "name": row.name, "figures": figures})
        print(f"[{time.monotonic() - started:5.1f} s] {row.section}, {row.name}: {_line(figures)}", flush=True)
        self.write()

    @property
    def failures(self) -> list[str]:
        """The names of the rows that failed."""
        return [f"{row['section']}, {row['name']}" for row in self.rows if "failed" in row["figures"]]

    def write(self) -> None:
        """Write all rows so far."""
        write_json(self.folder / f"{self.name}.json", {"facts": self.facts, "rows": self.rows})
        with written_beside(self.folder / f"{self.name}.md") as draft:
            draft.write_text(self.markdown())

    def markdown(self) -> str:
        """Return a table for each section, below `facts`."""
        parts = [
            f"# {self.facts['device']}",
            ", ".join(f"{name} {value}" for name, value in self.facts.items() if name != "device"),
        ]
        for section in dict.fromkeys(row["section"] for row in self.rows):
            rows = [row for row in self.rows if row["section"] == section]
            columns = list(dict.fromkeys(column for row in rows for column in row["figures"]))
            lines = [["", *columns], ["---", *["---:"] * len(columns)]]
            lines += [[row["name"], *(_cell(row["figures"].get(column, "")) for column in columns)] for row in rows]
            parts.append(f"## {section}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines))
        return "\n\n".join(parts) + "\n"


def _line(figures: Figures) -> str:
    return ", ".join(f"{name} {_cell(value)}" for name, value in figures.items())


def _cell(value: float | str) -> str:
    """Return a figure with three significant digits."""
    if isinstance(value, str):
        return value.replace("|", "/")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
