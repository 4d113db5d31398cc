"""Whether two merged models that were scored on the same examples differ by more than chance: a paired comparison."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import NormalDist, fmean

import numpy as np

from src.evaluation.examples import decode
from src.reports.grid import Cell, Grid
from src.reports.records import Record

LEVEL = 0.05


def paired_p_value(first: Record, second: Record) -> float | None:
    """Return the two-sided p-value of a difference in mean accuracy over tasks; None unless both have the same examples.

    Examples are drawn independently, and a difference is that of one example under both models: much of what makes an
    example easy or hard for both cancels.
    """
    scores = [_examples(record) for record in (first, second)]
    if not all(scores) or scores[0].keys() != scores[1].keys() or not _same_data(first, second, scores[0]):
        return None
    pairs = [(scores[0][task], scores[1][task]) for task in scores[0]]
    if any(len(one) != len(other) for one, other in pairs):
        return None
    differences = [one - other for one, other in pairs]
    means = [float(each.mean(dtype=float)) for each in differences]
    squares = [float(np.dot(each, each)) / len(each) for each in differences]
    mean = fmean(means)
    variances = [max(square - own**2, 0.0) / len(each) for square, own, each in zip(squares, means, differences)]
    variance = sum(variances) / len(variances) ** 2
    if variance == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * NormalDist().cdf(-abs(mean) / variance**0.5)


@lru_cache(maxsize=2)  # the best of a column is compared with all others
def _examples(record: Record) -> Mapping[str, np.ndarray]:
    """Return the scores of the merged model's test examples by task; {} if the record lacks any."""
    try:
        return {task: decode(scores["merged"]["examples"]) for task, scores in record.content["test"].items()}
    except (KeyError, TypeError, ValueError):
        return {}


def _same_data(first: Record, second: Record, tasks: Iterable[str]) -> bool:
    """Whether both records have a digest of each task's test data, and the same."""
    try:
        pairs = [[record.content["lineage"]["data"][task]["test"] for record in (first, second)] for task in tasks]
    except (KeyError, TypeError):
        return False
    return all(one and one == other for one, other in pairs)


def with_ties(
    cells: Sequence[Cell], records: Mapping[tuple[str, str, str], Record | None], unranked: Sequence[str] = ()
) -> list[Cell]:
    """Return the cells with a mark on those that a paired test does not tell from the best of their column.

    records: that each cell of a merged accuracy was measured in, by row, column and metric.
    unranked: as in `Grid`.
    """
    best = {
        (column, metric): row for (row, column, metric), rank in Grid("", cells, unranked=unranked).ranks().items() if rank == 0
    }
    marked = []
    for cell in cells:
        leader = best.get((cell.column, cell.metric))
        pair = [records.get((row, cell.column, cell.metric)) for row in (cell.row, leader)]
        is_single = cell.figure and cell.figure.spread is None and cell.row != leader and None not in pair
        value = paired_p_value(*pair) if is_single else None
        marked.append(replace(cell, ties_best=value is not None and value >= LEVEL))
    return marked


def tie_note(cells: Iterable[Cell]) -> list[str]:
    """Return the sentence that explains the mark, if a cell has it."""
    return [f"\u2248: not told from the best by a paired test on the same examples, at {LEVEL:.0%}"] * any(
        cell.ties_best for cell in cells
    )
