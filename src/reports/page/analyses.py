"""What a page shows of an analysis of what tasks share: masks, cosines, and spectra of a few layers."""

from collections.abc import Mapping, Sequence

from src.reports.page.lenient import at, items, number, spread, text

LAYERS, SINGULAR_VALUES = 6, 24  # at most, of an analysis


def analysis_of(analysis: Mapping) -> dict:
    """Return what a page shows of an analysis: mask use, the tasks' matrices, and spectra of layers from shallow to deep."""
    layers = [layer for layer in items(analysis.get("layers")) if items(at(layer, "values"))]
    found = {
        "tasks": [text(task) for task in items(analysis.get("tasks"))],
        "cosine": _matrix(analysis.get("cosine")),
        "overlap": _matrix(at(analysis, "masks", "overlap")),
        "share": [number(share) for share in items(at(analysis, "masks", "share"))],
        "spectra": [[text(layer.get("name")), _spectrum(layer["values"])] for layer in spread(layers, LAYERS)],
    }
    return {key: value for key, value in found.items() if value}


def _matrix(rows: object) -> list[list]:
    return [[number(value, 3) for value in items(row)] for row in items(rows)]


def _spectrum(by_task: Sequence) -> list[list]:
    """Return indices from 1, and at each the mean over tasks of the singular value over the task's largest."""
    tasks = [[number(value, 9) or 0.0 for value in items(values)] for values in by_task]
    tasks = [values for values in tasks if values and values[0] > 0]
    length = min(map(len, tasks), default=0)
    indices = spread(range(length), SINGULAR_VALUES)
    means = [number(sum(values[index] / values[0] for values in tasks) / len(tasks), 5) for index in indices]
    return [[index + 1 for index in indices], means]
