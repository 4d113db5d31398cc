"""Keep the largest entries of each task vector: thresholds over the whole vector, over each parameter, or of one matrix."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.edits import Trim, TrimEach
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.order_statistics import INTEGERS, Scan, counted
from src.merging.engine.selection import selected

VECTOR, TENSOR = "vector", "tensor"
T = TypeVar("T")


def check_percentage(k: float, name: str) -> None:
    """Raise UserError unless `k` is a percentage in (0, 100], or a fraction in (0, 1), which means the same."""
    if not isinstance(k, int | float) or isinstance(k, bool) or not 0 < k <= 100:
        raise UserError(
            f"method.k of {name} is the percentage of entries to keep, above 0 and up to 100 (below 1 it is a fraction); got {k}"
        )


def check_scope(scope: object) -> None:
    """Raise UserError unless an option says where the entries lie of which a percentage is kept."""
    if scope not in list(EDITS):
        raise UserError(f"method.scope is {' or '.join(EDITS)}; got {scope}")


def trimmed(inputs: MergeInputs, k: float, scope: str = VECTOR) -> MergeInputs:
    """Return the inputs with all but the `k` percent largest entries of each task vector counting as zero (ties are kept).

    scope: a key of EDITS, whether a percentage of the whole vector or of each parameter.
    """
    if k == 100:
        return inputs
    trims = inputs.memo.setdefault("trims", {})  # the same edits keep the same entries
    if (inputs.edits, k, scope) not in trims:
        trims[inputs.edits, k, scope] = EDITS[scope](inputs, k)
    return inputs.edited(trims[inputs.edits, k, scope])


def magnitude_thresholds(inputs: MergeInputs, k: float) -> Tensor:
    """Return (tasks,) the `d - int(d * k%)`-th smallest magnitude of each task's d entries; 0 where that is none."""
    dtypes = {leaf.dtype for leaf in inputs.outline.values()}
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    rank, tasks, zeros = _rank(inputs.size, k), len(inputs.tasks), inputs.unchanged_size
    if rank == 0:
        return torch.zeros(tasks, dtype=widest)
    scan = _magnitudes(inputs.scan_together, widest)
    return selected(scan, tasks, [rank], inputs.size, zeros, INTEGERS[widest])[:, 0].view(widest)


def thresholds_by_parameter(inputs: MergeInputs, k: float, scope: str) -> dict[str, Tensor]:
    """Return `magnitude_thresholds` by changed parameter, which by scope are those of the whole vector, or its own."""
    changed = {key: leaf for key, leaf in inputs.outline.items() if inputs.changed(key)}
    if scope == VECTOR:
        return dict.fromkeys(changed, magnitude_thresholds(inputs, k))
    return {key: _threshold_of_parameter(inputs, key, k) for key in changed}


def largest_entries(stack: Tensor, count: int) -> Tensor:
    """Return the `count` largest entries of each matrix of a stack, (tasks, m, n), ties included; the others are zero."""
    magnitudes = stack.abs().flatten(1)
    size = magnitudes.shape[1]
    if count >= size:
        return stack
    thresholds = torch.stack([row.kthvalue(size - count + 1).values for row in magnitudes])
    return torch.where(stack.abs() >= thresholds[:, None, None], stack, 0.0)


def kept_share(k: float) -> float:
    """Return the share that a percentage k is, which below 1 is one already."""
    return k if k < 1 else k / 100


def _trim_each(inputs: MergeInputs, k: float) -> TrimEach:
    return TrimEach({key: Trim(thresholds) for key, thresholds in thresholds_by_parameter(inputs, k, TENSOR).items()})


EDITS = {VECTOR: lambda inputs, k: Trim(magnitude_thresholds(inputs, k)), TENSOR: _trim_each}


def _threshold_of_parameter(inputs: MergeInputs, key: str, k: float) -> Tensor:
    """Return (tasks,) the `d - int(d * k%)`-th smallest magnitude of each task's d entries in one parameter, or 0."""
    leaf, tasks = inputs.outline[key], len(inputs.tasks)
    rank = _rank(leaf.numel(), k)
    if rank == 0:
        return torch.zeros(tasks, dtype=leaf.dtype)

    def of_parameter(visit: Callable[[Tensor], T], step: int = 1) -> Iterable[T]:
        return inputs.each(key, lambda _, stack: visit(stack[:, ::step]))

    scan = _magnitudes(of_parameter, leaf.dtype)
    return counted(scan, tasks, [rank], 0, INTEGERS[leaf.dtype])[:, 0].view(leaf.dtype)


def _rank(size: int, k: float) -> int:
    """Return the rank, among `size` magnitudes, of the threshold that keeps k percent of them."""
    return size - int(size * kept_share(k))


def _magnitudes(scan: Scan, dtype: torch.dtype) -> Scan:
    """Return a scan of the magnitudes of what another scan visits, as integers of which larger ones are of larger magnitudes."""

    def of_magnitudes(visit: Callable[[Tensor], T], step: int = 1) -> Iterable[T]:
        return scan(lambda stack: visit(stack.to(dtype).abs_().view(INTEGERS[dtype])), step)

    return of_magnitudes
