"""Choose a method's coefficient on validation data: one for all tasks, or each task's own."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    """Look at fewer places of the same grid: about six of ten, eleven of thirty.

    Places evenly apart, about the square root of `count`, are looked at first, so that a curve with several peaks or a
    flat start misleads less; then the interval around the best of them is cut at its golden sections, the side of the
    smaller value dropped (Kiefer, 1953); then the best is climbed from, two steps to each side. A curve that is not
    one peak between those places, or noise in it, can hide a better place: the whole grid is the papers' way.
    """
    step = max(round(math.sqrt(count)), 1)
    found: dict[int, float] = {}

    def look(places: Iterable[int]) -> list[float]:
        asked = [place for place in places if 0 <= place < count]
        found.update(zip(asked, values(asked), strict=True))
        return [found[place] for place in asked]

    def best() -> int:
        return max(sorted(found), key=found.__getitem__)  # the first of equals

    look(sorted({*range(0, count, step), count - 1}))
    low, high = max(best() - step, 0), min(best() + step, count - 1)
    while high - low > 4:
        first = round(high - GOLDEN * (high - low))
        left, right = look((first, max(round(low + GOLDEN * (high - low)), first + 1)))
        low, high = (low, max(round(low + GOLDEN * (high - low)), first + 1)) if left >= right else (first, high)
    while beside := [place for place in range(best() - 2, best() + 3) if 0 <= place < count and place not in found]:
        look(beside)


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
        for place, accuracy in zip(new, measure([coefficients[place] for place in new]) if new else (), strict=True):
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
