"""Choose a method's coefficient on validation data: one for all tasks, or each task's own."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from src.merging.method import Family, Method
from src.task_vectors import TaskVector

Accuracies = dict[str, float]


class Asked(Mapping[str, float]):
    """Accuracies by task that are measured, once, when a method's objective asks for them."""

    def __init__(self, tasks: tuple[str, ...], measure: Callable[[str], float]):
        self._tasks, self._measure = tasks, cache(measure)

    def __getitem__(self, task: str) -> float:
        return self._measure(task)

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


def search(
    method: Method,
    family: Family,
    coefficients: tuple[float, ...],
    measure: Callable[[dict[str, TaskVector], float], Accuracies],
    finetuned: Mapping[str, float],
    zeroshot: Mapping[str, float],
) -> tuple[dict[str, float], list[Point]]:
    """Each task's coefficient, and the whole curve.

    It is the coefficient with the best objective, or, where a method gives each task its own vector, the one with the
    task's best accuracy; the first of equals. `measure(vectors, coefficient)` gives validation accuracies; `finetuned`
    and `zeroshot` those of the reference models on the same data.
    """
    curve = []
    for coefficient in coefficients:
        accuracy = measure(family(coefficient), coefficient)
        curve.append(Point(coefficient, accuracy, method.objective(accuracy, finetuned, zeroshot)))
    best = max(curve, key=lambda point: point.objective)  # max keeps the first of equals
    chosen = dict.fromkeys(best.accuracy, best.coefficient)
    if method.per_task:
        chosen = {task: max(curve, key=lambda point: point.accuracy[task]).coefficient for task in chosen}
    return chosen, curve
