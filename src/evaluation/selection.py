"""Selection on validation data, before test data is used: of coefficients, and of the masks that a method needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from src.checkpoints.mask_files import MaskFiles, MaskProvenance, SavedMasks, load_masks, open_masks, save_masks
from src.evaluation.evaluator import Evaluator, accuracies
from src.evaluation.search import LazyAccuracies, SearchPoint, Strategy, search
from src.merging.method import MergeFamily, Method
from src.task_vectors import TaskVector


@dataclass(frozen=True)
class Selection:
    """A method with its coefficients, and how they were found.

    merges: the method's merged vectors, by coefficient.
    coefficients: by task; None where they are not known (masks that do not say).
    curve: the points that were evaluated.
    grid_size: number of coefficients that the curve was chosen from, 0 without a search.
    provenance: of masks made in this run.
    masks: those loaded, or made before the search.
    notes: sentences for the record.
    """

    method: Method
    merges: MergeFamily
    coefficients: dict[str, float | None]
    curve: list[SearchPoint]
    grid_size: int
    provenance: MaskProvenance
    masks: SavedMasks | None
    notes: list[str]

    @property
    def vectors(self) -> dict[str, TaskVector]:
        """Each task's vector."""
        return self.merges.at(self.coefficients)


def select(
    method: Method,
    specified: float | None,
    load: bool | str | None,
    files: MaskFiles,
    evaluator: Evaluator,
    strategy: Strategy,
) -> Selection:
    """Load or make the masks that `method` needs, and choose the coefficients that are not specified.

    Masks whose lambda is chosen or specified here are saved.

    specified: the one coefficient to use; None to search the method's grid.
    load: as `load_masks` has it; None takes masks only where the method lacks some.
    files: where the model's masks are.
    strategy: how grids are searched.
    """
    inputs, tasks, maker = evaluator.inputs, evaluator.tasks, method.mask_method
    provenance = MaskProvenance(method.mask_base, evaluator.family.pretrained_digest, evaluator.finetuned_digests)
    load = False if load is None and maker is None else load
    masks = load_masks(load, files, provenance, inputs.outline, (maker or method).coefficients(len(tasks)))
    uses_saved_masks = bool(masks and method.per_task)  # then no coefficient is left to choose
    grid = (specified,) if specified is not None else method.coefficients(len(tasks))
    _plan(evaluator, [*([] if uses_saved_masks else [grid]), *([maker.coefficients(len(tasks))] if maker and not masks else [])])
    notes = []
    if masks:
        has_provenance = masks.chosen_from or masks.lambdas
        notes.append(f"masks: {masks}{'' if has_provenance else '; the file does not say of which checkpoints they are'}")
    elif maker:
        masks = _make_masks(maker, files.folder, evaluator, provenance, strategy)
        notes.append(f"masks: none were there that fit, so they were made: {masks}")
    if masks:
        method = method.with_masks(masks.masks)
    merges = method(inputs)
    if uses_saved_masks:
        lambdas = masks.lambdas or dict.fromkeys(tasks)
        return Selection(method, merges, {task: lambdas[task] for task in tasks}, [], 0, provenance, masks, notes)
    coefficients, curve = choose(method, merges, grid, evaluator, strategy)
    if method.makes_masks:
        chosen_from = grid if len(grid) > 1 else None
        notes.append(f"masks: {_save_masks(merges, files.folder, evaluator, provenance, coefficients, chosen_from)}")
    return Selection(method, merges, coefficients, curve, len(grid) if curve else 0, provenance, masks, notes)


def choose(
    method: Method, merges: MergeFamily, grid: Sequence[float], evaluator: Evaluator, strategy: Strategy
) -> tuple[dict[str, float], list[SearchPoint]]:
    """Return each task's best coefficient on validation data and the curve; score nothing where there is no choice."""
    if len(grid) == 1:
        return dict.fromkeys(evaluator.tasks, grid[0]), []

    def measure(coefficients: Sequence[float]) -> list[dict[str, float]]:
        return list(map(accuracies, evaluator.sweep(merges, coefficients, "val", "coefficient {:.4g}".format)))

    finetuned = LazyAccuracies(tuple(evaluator.tasks), lambda: accuracies(evaluator.finetuned("val")))
    zeroshot = LazyAccuracies(tuple(evaluator.tasks), lambda: accuracies(evaluator.zeroshot("val")))
    return search(method, grid, strategy, measure, finetuned, zeroshot)


def _make_masks(maker: Method, folder: Path, evaluator: Evaluator, provenance: MaskProvenance, strategy: Strategy) -> SavedMasks:
    """Make masks whose lambda is chosen on validation data, save them, and return them as they are read back."""
    merges, grid = maker(evaluator.inputs), maker.coefficients(len(evaluator.tasks))
    lambdas, _ = choose(maker, merges, grid, evaluator, strategy)
    path = _save_masks(merges, folder, evaluator, provenance, lambdas, grid)
    return open_masks(path, provenance, evaluator.inputs.outline)


def _save_masks(
    merges: MergeFamily,
    folder: Path,
    evaluator: Evaluator,
    provenance: MaskProvenance,
    lambdas: dict[str, float],
    grid: Sequence[float] | None,
) -> Path:
    """Save masks in the main process, for which all others wait; return the path."""
    group = evaluator.scorer.group
    path = save_masks(merges.compact(lambdas), folder, provenance, lambdas, grid) if group.is_main else None
    return group.all_gather(path)[0]


def _plan(evaluator: Evaluator, grids: Sequence[Sequence[float]]) -> None:
    """Announce the examples that searches of these grids will score."""
    models = sum(len(grid) for grid in grids if len(grid) > 1)
    if models:
        examples = sum(evaluator.family.count(task, "val") for task in evaluator.tasks.values())
        evaluator.scorer.progress.plan(models * examples // evaluator.scorer.group.size)
