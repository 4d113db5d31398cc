"""What tables show of records, by name: accuracies in percent, storage, time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from src.experiments.record import half_width
from src.reports.records import Record

ACCURACIES = ("merged", "finetuned", "zeroshot", "normalised", "unseen_merged", "unseen_zeroshot")
NEGATIONS = ("target_pretrained", "target_negated", "control_pretrained", "control_negated")


@dataclass(frozen=True)
class Figure:
    """A measured number.

    half_width: half of the 95 % interval of its error, that of sampling or, over seeds, of their mean; None where none is known.
    spread: the standard deviation over seeds; None of a single one.
    form: how it is written.
    """

    value: float
    half_width: float | None = None
    spread: float | None = None
    form: str = ".1f"

    def __str__(self) -> str:
        text = f"{self.value:{self.form}}"
        error = self.half_width if self.spread is None else self.spread
        return text if error is None else f"{text} ± {error:{self.form}}"


Measure = Callable[[Mapping], Figure | None]


def measure(name: str, record: Record) -> Figure | None:
    """Return a figure of a record; None if it has none of this name, as records of older versions and other kinds may."""
    try:
        return MEASURES[name](record.content)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None


def mean_of(name: str, figures: list[Figure]) -> Figure:
    """Return the mean of figures of several runs. Those of target tasks are of different data, and err independently."""
    widths = [figure.half_width for figure in figures]
    width = None if None in widths else fmean(widths)
    if width is not None and not name.startswith("control"):
        width = sum(each**2 for each in widths) ** 0.5 / len(widths)
    return Figure(fmean(figure.value for figure in figures), width, form=figures[0].form)


def over_seeds(figures: list[Figure]) -> Figure:
    """Return the mean of figures of different seeds on the same data, with their spread; a single one as it is."""
    if len(figures) == 1:
        return figures[0]
    from scipy.special import stdtrit  # which other tables have no need to wait for

    values = [figure.value for figure in figures]
    spread, count = stdev(values), len(values)
    return Figure(fmean(values), float(stdtrit(count - 1, 0.975)) * spread / count**0.5, spread, figures[0].form)


def _mean(name: str) -> Measure:
    def get(record: Mapping) -> Figure:
        mean = record["means"][name]
        width = mean.get("half_width_95")
        return Figure(100 * float(mean["mean"]), None if width is None else 100 * float(width))

    return get


def _single_task(of_target: bool, model: str) -> Measure:
    """Return the measure of a model on the target of single_task, or the mean over the other tasks."""

    def get(record: Mapping) -> Figure:
        (target,) = (name.removeprefix("target ") for name in record["summary"] if name.startswith("target "))
        scores = [scores[model] for task, scores in record["test"].items() if (task == target) == of_target]
        variances = [score["accuracy"] * (1 - score["accuracy"]) / score["count"] for score in scores]
        return Figure(100 * fmean(score["accuracy"] for score in scores), 100 * half_width(variances))

    return get


def _bits(record: Mapping) -> float:
    """Return the bits that all tasks' models take, as the TALL masks paper counts them."""
    return record["storage"]["formula_bits"] if record["storage"] else 8 * record["bytes_stored"]


def _separate(record: Mapping) -> float:
    """Return the bytes that one model a task takes."""
    return record["bytes_stored"] * len(record["test"])


def _separate_bits(record: Mapping) -> float:
    """Return the bits of one model a task as the TALL masks paper counts them: what no task changed counts once."""
    changed = record["bytes_changed"]
    return 8 * (record["bytes_pretrained"] - changed + len(record["test"]) * changed)


MEASURES: dict[str, Measure] = {
    **{name: _mean(name) for name in (*ACCURACIES, *NEGATIONS)},
    "error": _mean("everywhere"),
    "target_merged": _single_task(True, "merged"),
    "target_zeroshot": _single_task(True, "zeroshot"),
    "control_merged": _single_task(False, "merged"),
    "control_zeroshot": _single_task(False, "zeroshot"),
    "gigabits": lambda record: Figure(_bits(record) / 1e9),
    "gigabits_separate": lambda record: Figure(_separate_bits(record) / 1e9),
    "megabytes": lambda record: Figure(record["bytes_stored"] / 1e6),
    "megabytes_separate": lambda record: Figure(_separate(record) / 1e6),
    "seconds": lambda record: Figure(record["seconds"]),
    "coefficient": lambda record: Figure(float(record["coefficient"]), form=".4g"),
}
