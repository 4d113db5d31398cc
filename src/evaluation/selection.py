"""What a run settles on validation data before it scores: coefficients, and the masks that a method is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from src.checkpoints.mask_files import MASKS, MadeOf, SavedMasks, find_masks, open_masks, save_masks
from src.errors import UserError
from src.evaluation.evaluator import Measurement, accuracies
from src.evaluation.search import Asked, Point, Strategy, search
from src.merging.engine.inputs import Ingredients
from src.merging.method import Family, Method
from src.task_vectors import TaskVector


@dataclass(frozen=True)
class Prepared:
    """A method with the masks it needs; masks: those that were saved earlier or made for it; notes: what was done."""

    method: Method
    masks: SavedMasks | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Settled:
    """All that is known before test data is looked at. searched: how many coefficients the curve was chosen from;
    made_of: what masks would be made of; masks: those loaded or made before the search, if there are any."""

    method: Method
    candidates: Family
    coefficients: dict[str, float | None]
    curve: list[Point]
    searched: int
    made_of: MadeOf
    masks: SavedMasks | None
    notes: list[str]

    @property
    def vectors(self) -> dict[str, TaskVector]:
        """Each task's vector."""
        return self.candidates.chosen(self.coefficients)


def settle(
    method: Method,
    specified: float | None,
    load: bool | str | None,
    folder: Path,
    measured: Measurement,
    strategy: Strategy,
    plan: Callable[[int], None],
) -> Settled:
    """Find or make the masks that `method` needs, and choose the coefficients that are not specified.

    load: method.load_mask; folder: of the model's checkpoints and masks; strategy: how grids are searched; plan: is told
    how many images will be scored.
    Masks whose lambda is chosen or specified here are saved.
    """
    given, tasks = measured.given, measured.tasks
    made_of = MadeOf(method.mask_base, *measured.made_of)
    prepared = with_saved_masks(method, load, folder, given, made_of)
    loaded = bool(prepared.masks and method.per_task)
    grid = (specified,) if specified is not None else method.coefficients(len(tasks))
    grids = [] if loaded else [grid]
    if prepared.method.mask_method:
        grids.append(prepared.method.mask_method.coefficients(len(tasks)))
    sizes = [len(tried) for tried in grids if len(tried) > 1]
    if sizes:
        plan(sum(sizes) * sum(measured.scorer.family.count(task, "val") for task in tasks.values()))
    if not prepared.masks:
        prepared = with_new_masks(method, folder / MASKS, measured, made_of, strategy)
    candidates, notes = prepared.method(given), list(prepared.notes)
    if loaded:
        known = prepared.masks.lambdas or dict.fromkeys(tasks)
        return Settled(prepared.method, candidates, {task: known[task] for task in tasks}, [], 0, made_of, prepared.masks, notes)
    coefficients, curve = choose(prepared.method, candidates, grid, measured, strategy)
    if method.makes_masks:
        chosen_from = grid if len(grid) > 1 else None
        path = save_masks(candidates.compact(coefficients), folder / MASKS, made_of, coefficients, chosen_from)
        notes.append(f"masks: {path}")
    searched = len(grid) if curve else 0
    return Settled(prepared.method, candidates, coefficients, curve, searched, made_of, prepared.masks, notes)


def choose(
    method: Method, candidates: Family, coefficients: Sequence[float], measured: Measurement, strategy: Strategy
) -> tuple[dict[str, float], list[Point]]:
    """Each task's best coefficient on validation data and the curve; nothing is measured where there is no choice."""
    if len(coefficients) == 1:
        return dict.fromkeys(measured.tasks, coefficients[0]), []

    def measure(tried: Sequence[float]) -> list[dict[str, float]]:
        found: list[dict[str, float]] = []
        for start in range(0, len(tried), measured.at_once):  # no more families at a time than models
            part = tried[start : start + measured.at_once]
            names = [f"coefficient {coefficient:.4g}" for coefficient in part]
            found += map(accuracies, measured.merged([candidates(coefficient) for coefficient in part], "val", names))
        return found

    finetuned = Asked(tuple(measured.tasks), lambda: accuracies(measured.finetuned("val")))
    zeroshot = Asked(tuple(measured.tasks), lambda: accuracies(measured.zeroshot("val")))
    return search(method, coefficients, strategy, measure, finetuned, zeroshot)


def with_saved_masks(
    method: Method, load: bool | str | None, folder: Path | None, given: Ingredients, made_of: MadeOf
) -> Prepared:
    """`method` with masks saved earlier, as method.load_mask asks: true for any under `folder` that fit, a path for its
    own, null for those of the same choice if there are any.

    Raises UserError with the reason where the masks asked for do not fit.
    """
    if load is False or (load is None and (method.mask_method is None or folder is None)):
        return Prepared(method)
    grid = (method.mask_method or method).coefficients(len(given.tasks))
    if isinstance(load, str):
        saved = open_masks(Path(load).expanduser(), made_of, given.outline)
    elif folder is None:
        raise UserError("method.load_mask=True looks beside a model's checkpoints; with model=files give the masks' path")
    else:
        try:
            saved = find_masks(folder, made_of, given.outline, grid)
        except UserError:
            if load:
                raise
            return Prepared(method)
        if load is None and saved.chosen_from != list(grid):
            return Prepared(method)
    checked = "" if saved.chosen_from or saved.lambdas else "; the file does not say of which checkpoints they are"
    return Prepared(method.with_masks(saved.masks), saved, [f"masks: {saved.path} ({_told(saved)}){checked}"])


def with_new_masks(method: Method, folder: Path, measured: Measurement, made_of: MadeOf, strategy: Strategy) -> Prepared:
    """`method` with masks made for it, lambda chosen on validation data, which are saved; as it is if it lacks none."""
    maker = method.mask_method
    if maker is None:
        return Prepared(method)
    candidates, grid = maker(measured.given), maker.coefficients(len(measured.tasks))
    chosen, _ = choose(maker, candidates, grid, measured, strategy)
    path = save_masks(candidates.compact(chosen), folder, made_of, chosen, grid)
    saved = open_masks(path, made_of, measured.given.outline)
    return Prepared(
        method.with_masks(saved.masks), saved, [f"masks: none were there that fit, so they were made: {path} ({_told(saved)})"]
    )


def _told(saved: SavedMasks) -> str:
    if saved.lambdas is None:
        return "lambda unknown"
    return "lambda " + ", ".join(f"{number:.4g} {task}" for task, number in saved.lambdas.items())
