"""Choose a method's coefficient on validation data: one for all tasks, or each task's own."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from src.merging.method import Method

Accuracies = Mapping[str, float]
GOLDEN = (math.sqrt(5) - 1) / 2


class LazyAccuracies(Mapping[str, float]):
    """Accuracies by task that are measured, once, when a method's objective reads one."""

    def __init__(self, tasks: Sequence[str], measure: Callable[[], Accuracies]):
        self._tasks, self._measure = tuple(tasks), measure

    @cached_property
    def _accuracies(self) -> Accuracies:
        return self._measure()

    def __getitem__(self, task: str) -> float:
        return self._accuracies[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


@dataclass(frozen=True)
class SearchPoint:
    """One coefficient of a search.

    accuracy: on validation data, by task.
    objective: the method's, of these.
    """

    coefficient: float
    accuracy: Accuracies
    objective: float


class Strategy(Protocol):
    """Looks for the largest of `count` values."""

    def __call__(self, count: int, values: Callable[[Sequence[int]], Sequence[float]]) -> None:
        """Call `values(indices)`, whose results the caller remembers, for as many of 0..count-1 as it takes."""


def whole_grid(count: int, values: Callable[[Sequence[int]], Sequence[float]]) -> None:
    """Look at every index, as the papers do."""
    values(range(count))


def golden_section(count: int, values: Callable[[Sequence[int]], Sequence[float]]) -> None:
    """Look at fewer indices of the same grid: about seven of ten, eleven of thirty.

    Indices evenly apart, about the square root of `count`, are evaluated first, so that a curve with several peaks or a
    flat start misleads less; then the interval around the best of them is cut at its golden sections, the side of the
    smaller value dropped (Kiefer, 1953); then the best is climbed from, two steps to each side. A curve that is not
    one peak between those indices, or noise in it, can hide a better one: the whole grid is the papers' way.
    """
    step = max(round(math.sqrt(count)), 1)
    values_at: dict[int, float] = {}

    def look(indices: Iterable[int]) -> list[float]:
        inside = [index for index in indices if 0 <= index < count]
        values_at.update(zip(inside, values(inside), strict=True))
        return [values_at[index] for index in inside]

    def best() -> int:
        return max(sorted(values_at), key=values_at.__getitem__)  # the first of equals

    look(sorted({*range(0, count, step), count - 1}))
    low, high = max(best() - step, 0), min(best() + step, count - 1)
    while high - low > 4:
        first = round(high - GOLDEN * (high - low))
        second = max(round(low + GOLDEN * (high - low)), first + 1)
        left, right = look((first, second))
        low, high = (low, second) if left >= right else (first, high)
    while neighbours := [index for index in range(best() - 2, best() + 3) if 0 <= index < count and index not in values_at]:
        look(neighbours)


STRATEGIES: dict[str, Strategy] = {"grid": whole_grid, "golden": golden_section}


def search(
    method: Method,
    grid: Sequence[float],
    strategy: Strategy,
    measure: Callable[[Sequence[float]], Sequence[Accuracies]],
    finetuned: Accuracies,
    zeroshot: Accuracies,
) -> tuple[dict[str, float], list[SearchPoint]]:
    """Return each task's coefficient, and the points that were evaluated, in the order of the grid.

    It is the coefficient with the best objective, or, where a method gives each task its own vector, the one with the
    task's best accuracy; the first of equals.

    measure: returns validation accuracies at several coefficients.
    finetuned, zeroshot: validation accuracies of the reference models.
    """
    points: dict[int, SearchPoint] = {}

    def look(indices: Sequence[int]) -> list[SearchPoint]:
        new = [index for index in indices if index not in points]
        for index, accuracy in zip(new, measure([grid[index] for index in new]) if new else (), strict=True):
            points[index] = SearchPoint(grid[index], accuracy, method.criterion(accuracy, finetuned, zeroshot))
        return [points[index] for index in indices]

    def best(value: Callable[[SearchPoint], float]) -> float:
        strategy(len(grid), lambda indices: [value(point) for point in look(indices)])
        return max((points[index] for index in sorted(points)), key=value).coefficient  # max keeps the first of equals

    if method.per_task:
        coefficients = {task: best(lambda point, task=task: point.accuracy[task]) for task in finetuned}
    else:
        coefficients = dict.fromkeys(finetuned, best(lambda point: point.objective))
    return coefficients, [points[index] for index in sorted(points)]
