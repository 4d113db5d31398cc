"""Published figures, and whether a measured one may be compared with them and agrees."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from src.reports.measures import Figure
from src.reports.records import Record

FILE = Path(__file__).with_name("published.csv")
WIDEST = 3.0  # points by which a figure may be off and still be judged
AGREES, DIFFERS, NOT_COMPARABLE, NOT_RUN = "agrees", "differs", "not comparable", "not run"


@dataclass(frozen=True)
class Published:
    """A published figure.

    text: as it was printed, whose last digit is rounded.
    benchmark: the lineage of the models; "" where it has no name.
    confidence: how it was read: `file`, `page-text`, `page-image`, `computed-from-file`.
    """

    text: str
    unit: str
    benchmark: str
    confidence: str
    source: str
    paper: str

    @property
    def value(self) -> float:
        return float(self.text)

    @property
    def rounding(self) -> float:
        """The most that rounding changed it."""
        return 0.5 * 10.0 ** -len(self.text.partition(".")[2])


@dataclass(frozen=True)
class Verdict:
    """Whether a measured figure agrees with a published one: one of the names above, and why."""

    name: str
    reason: str = ""


@cache
def published_table(table: str | None) -> Mapping[tuple[str, str, str, str], Published]:
    """Return the figures of a published table by (model, tasks, method, metric)."""
    if table is None:
        return {}
    with FILE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == table]
    return {
        (row["model"], row["tasks"], row["method"], row["metric"]): Published(
            row["value"], row["unit"], row["benchmark"], row["confidence"], row["source"], row["paper"]
        )
        for row in rows
    }


def verdict_on(figure: Figure, published: Published, records: Iterable[Record], changes: Sequence[str] = ()) -> Verdict:
    """Return whether a figure agrees with a published one: within its interval, and the rounding.

    records: those that it was measured in.
    changes: options that differ from the published ones.
    """
    reasons = [f"ours is with {change}" for change in changes]
    reasons += dict.fromkeys(reason for record in records for reason in _differences(record, published))
    if reasons:
        return Verdict(NOT_COMPARABLE, "; ".join(reasons))
    error = (figure.half_width or 0.0) + published.rounding
    if error > WIDEST:
        return Verdict(NOT_COMPARABLE, f"our interval of ± {error:.1f} is too wide to tell")
    difference = abs(figure.value - published.value)
    return Verdict(AGREES if difference <= error + 1e-9 else DIFFERS, f"{difference:.2f} apart, {error:.2f} by chance")


def _differences(record: Record, published: Published) -> list[str]:
    """Return what in a record keeps it from being compared with a published figure."""
    reasons, content = [], record.content
    benchmark, lineage = content.get("benchmark", "unknown"), content.get("lineage", {})
    if not published.benchmark:
        reasons.append(f"nothing says which models and data the published figure is of; ours are of the benchmark {benchmark}")
    elif benchmark != published.benchmark:
        reasons.append(
            f"ours is of the benchmark {benchmark}, the published one of {published.benchmark}"
            + ("; if your models are those, name them (lineages=FILE)" if benchmark in ("unknown", "own") else "")
        )
    if (precision := record.question.get("precision", "fp32")) != "fp32":
        reasons.append(f"ours was scored in {precision}")
    heads = lineage.get("heads_from")
    if heads == {} and not record.config("prompts_location"):  # no heads: the prompts ask for the answers
        reasons.append("ours has this program's wording of prompts (prompts_location=FOLDER takes promptsource's)")
    if isinstance(heads, Mapping) and "prompts" in heads.values():
        reasons.append("our heads were built from prompts, theirs are published")
    return reasons
