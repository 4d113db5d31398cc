"""Whether two merged models that were scored on the same examples differ by more than chance: a paired comparison."""

from collections.abc import Mapping
from statistics import NormalDist, fmean

import numpy as np

from src.evaluation.examples import decode
from src.reports.records import Record

LEVEL = 0.05


def paired_p_value(first: Record, second: Record) -> float | None:
    """Return the two-sided p-value of a difference in mean accuracy over tasks; None unless both have the same examples.

    Examples are drawn independently, and a difference is that of one example under both models: much of what makes an
    example easy or hard for both cancels.
    """
    scores = [_examples(record) for record in (first, second)]
    if not all(scores) or _data(first) != _data(second) or scores[0].keys() != scores[1].keys():
        return None
    pairs = [(scores[0][task], scores[1][task]) for task in scores[0]]
    if any(len(one) != len(other) for one, other in pairs):
        return None
    differences = [one - other for one, other in pairs]
    mean = fmean(float(each.mean()) for each in differences)
    variance = sum(float(each.var()) / len(each) for each in differences) / len(differences) ** 2
    if variance == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * NormalDist().cdf(-abs(mean) / variance**0.5)


def _examples(record: Record) -> Mapping[str, np.ndarray]:
    """Return the scores of the merged model's test examples by task; {} if the record lacks any."""
    try:
        return {task: decode(scores["merged"]["examples"]).astype(float) for task, scores in record.content["test"].items()}
    except (KeyError, TypeError, ValueError):
        return {}


def _data(record: Record) -> object:
    """Return the digests of the test data, by task."""
    data = record.content.get("lineage", {}).get("data", {})
    return {task: splits.get("test") for task, splits in data.items()} if isinstance(data, Mapping) else None
