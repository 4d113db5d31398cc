"""Choose a method's coefficient on validation data: one for all tasks, or each task's own."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from src.merging.method import Method

Accuracies = Mapping[str, float]
GOLDEN = (math.sqrt(5) - 1) / 2


class Asked(Mapping[str, float]):
    """Accuracies by task that are measured, once, when a method's objective asks for one."""

    def __init__(self, tasks: Sequence[str], measure: Callable[[], Accuracies]):
        self._tasks, self._measure = tuple(tasks), measure

    @cached_property
    def _found(self) -> Accuracies:
        return self._measure()

    def __getitem__(self, task: str) -> float:
        return self._found[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


@dataclass(frozen=True)
class Point:
    """One coefficient of a search: validation accuracy by task, and the method's objective."""

    coefficient: float
    accuracy: Accuracies
    objective: float


class Strategy(Protocol):
    """Finds where a function of 0..count-1 is largest; `values(places)` gives it at several places, and is remembered."""

    def __call__(self, count: int, values: Callable[[Sequence[int]], Sequence[float]]) -> None: ...


def whole_grid(count: int, values: Callable[[Sequence[int]], Sequence[float]]) -> None:
    """Look everywhere, as the papers do."""
    values(range(count))


def golden_section(count: int, values: Callable[[Sequence[int]], Sequence[float]]) -> None:
    """Look where a function with one peak must have it (Kiefer, 1953), on the same grid.

    An interval is cut at its golden sections and the side of the smaller value dropped. In the end the peak's
    neighbours are looked at, and climbed where one is as good, so that rounding and flat tops mislead less; a function
    with several peaks can still hide one.
    """
    low, high = 0, count - 1
    while high - low > 2:
        first = round(high - GOLDEN * (high - low))
        second = max(round(low + GOLDEN * (high - low)), first + 1)
        left, right = values((first, second))
        low, high = (low, second) if left >= right else (first, high)
    found = dict(zip(range(low, high + 1), values(range(low, high + 1))))
    while True:
        best = max(sorted(found), key=found.__getitem__)  # the first of equals
        beside = [place for place in (best - 1, best + 1) if 0 <= place < count and place not in found]
        if not beside:
            return
        found.update(zip(beside, values(beside)))


STRATEGIES: dict[str, Strategy] = {"grid": whole_grid, "golden": golden_section}


def search(
    method: Method,
    coefficients: Sequence[float],
    strategy: Strategy,
    measure: Callable[[Sequence[float]], Sequence[Accuracies]],
    finetuned: Accuracies,
    zeroshot: Accuracies,
) -> tuple[dict[str, float], list[Point]]:
    """Each task's coefficient, and the points that were looked at, in the order of the grid.

    It is the coefficient with the best objective, or, where a method gives each task its own vector, the one with the
    task's best accuracy; the first of equals. `measure` gives validation accuracies at several coefficients;
    `finetuned` and `zeroshot` those of the reference models on the same data.
    """
    found: dict[int, Point] = {}

    def points(places: Sequence[int]) -> list[Point]:
        new = [place for place in places if place not in found]
        for place, accuracy in zip(new, measure([coefficients[place] for place in new]) if new else ()):
            found[place] = Point(coefficients[place], accuracy, method.objective(accuracy, finetuned, zeroshot))
        return [found[place] for place in places]

    def best(value: Callable[[Point], float]) -> float:
        strategy(len(coefficients), lambda places: [value(point) for point in points(places)])
        return max((found[place] for place in sorted(found)), key=value).coefficient  # max keeps the first of equals

    if method.per_task:
        chosen = {task: best(lambda point, task=task: point.accuracy[task]) for task in finetuned}
    else:
        chosen = dict.fromkeys(finetuned, best(lambda point: point.objective))
    return chosen, [found[place] for place in sorted(found)]
