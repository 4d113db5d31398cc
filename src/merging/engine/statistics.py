"""Statistics of the tasks (Fisher information, Gram matrices) as merging methods read them: one parameter at a time."""

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NoReturn

import torch
from torch import Tensor

from src.errors import UserError, raise_any, shorten
from src.merging.engine.inputs import MergeInputs
from src.state_dict import StateDict, outline, working_dtype

FISHER_DIAG, FISHER_BLOCK, GRAM_IN, GRAM_OUT = "fisher_diag", "fisher_block", "gram_in", "gram_out"
WITHOUT_GRADIENTS = (GRAM_IN,)  # kinds that a forward pass gives
Shape = Callable[[torch.Size], tuple[int, ...] | None]
# The shape of a statistic by that of its parameter; None where a parameter has none.
SHAPES: dict[str, Shape] = {
    FISHER_DIAG: tuple,
    FISHER_BLOCK: lambda shape: (shape[0], shape[0]) if len(shape) == 1 else None,
    GRAM_IN: lambda shape: (shape[1], shape[1]) if len(shape) == 2 else None,
    GRAM_OUT: lambda shape: (shape[0], shape[0]) if len(shape) == 2 else None,
}


class Statistic:
    """One kind of statistic of every task, by parameter.

    kind: a key of SHAPES.

    Raise UserError, with all problems at once, if a task has none, or lacks what others have, or has other shapes.
    """

    def __init__(self, inputs: MergeInputs, kind: str):
        self._inputs, self.kind = inputs, kind
        by_kind = inputs.statistics.get(kind)
        if by_kind is None:
            raise UserError(
                f"this method needs statistics of kind {kind}, and there are none; with model=files give a file of them for each "
                "fine-tuned model: statistics=[A.safetensors,B.safetensors]"
            )
        self._tasks: list[StateDict] = [by_kind[task] for task in inputs.tasks]
        outlines = [outline(entries) for entries in self._tasks]
        everywhere = set.intersection(*map(set, outlines))
        self._keys = {key for key in inputs.outline if key in everywhere}
        problems = [
            f"the {kind} of {task} lacks {shorten(missing)}, which other tasks' have; collect it again"
            for task, entries in zip(inputs.tasks, outlines)
            if (missing := [key for key in inputs.outline if key not in entries and any(key in each for each in outlines)])
        ]
        problems += [
            f"the {kind} of {task} has shape {tuple(entries[key].shape)} in {key}, whose own shape is "
            f"{tuple(inputs.outline[key].shape)}; it is of another model, or of another kind"
            for task, entries in zip(inputs.tasks, outlines)
            for key in inputs.outline
            if key in self._keys and SHAPES[kind](inputs.outline[key].shape) != tuple(entries[key].shape)
        ]
        if not self._keys and not problems:
            names = shorten(sorted(set().union(*outlines)))
            problems.append(
                f"the {kind} fits no parameter: it is of {names}, and the models have {shorten(list(inputs.outline))}"
            )
        raise_any(problems)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def of(self, key: str) -> list[Tensor]:
        """Return the statistic of a parameter by task, as it is stored."""
        return [entries[key] for entries in self._tasks]

    def copies(self, key: str, dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield the statistic of a parameter of one task after another, on the device, free to edit.

        All are multiplied by one power of two, by which the largest number is between 1 and 2, so that no product of them
        leaves the range of the dtype.

        Raise UserError naming the task and the parameter if one is NaN or infinite.
        """
        parts, largest = self.of(key), 0.0
        for number, part in enumerate(parts):
            wide = torch.promote_types(working_dtype(part.dtype), dtype)
            parts[number] = part = part.to(device=self._inputs.device, dtype=wide)
            bounds = torch.aminmax(part)
            size = max(abs(bounds.min.item()), abs(bounds.max.item()))
            if not math.isfinite(size):
                self.refuse(key)
            largest = max(largest, size)
        exponent = -math.floor(math.log2(largest)) if largest else 0
        halves = 2.0 ** (exponent // 2), 2.0 ** (exponent - exponent // 2)  # each of which every dtype holds
        while parts:
            yield parts.pop(0).mul(halves[0]).mul_(halves[1]).to(dtype)

    def refuse(self, key: str) -> NoReturn:
        """Raise UserError naming the tasks whose statistic of a parameter is NaN, infinite or, of a diagonal, negative."""
        faults = {task: part for task, part in zip(self._inputs.tasks, self.of(key))
                  if not part.double().isfinite().all() or (self.kind == FISHER_DIAG and (part < 0).any())}  # fmt: skip
        what = "negative, NaN or infinite" if self.kind == FISHER_DIAG else "NaN or infinite"
        raise UserError(f"the {self.kind} of {', '.join(faults)} holds {what} values in {key}; collect it again")

    @cached_property
    def traces(self) -> Tensor:
        """The trace of each task's statistic over all parameters, (tasks,), float64: of a diagonal its sum."""
        return sum((self.traces_of(key) for key in self._inputs.outline if key in self), torch.zeros(len(self._tasks)).double())

    def traces_of(self, key: str) -> Tensor:
        """Return the trace of each task's statistic of a parameter, (tasks,), float64, on the CPU."""
        parts = self.of(key)
        diagonals = parts if self.kind == FISHER_DIAG else [part.diagonal() for part in parts]
        return torch.stack([diagonal.sum(dtype=torch.float64).cpu() for diagonal in diagonals])


def scale_off_diagonal(matrices: Tensor, factor: float) -> Tensor:
    """Return the matrices, (..., d, d), with all but their diagonals times `factor`; edited in place."""
    if factor != 1:
        diagonals = matrices.diagonal(dim1=-2, dim2=-1).clone()
        matrices.mul_(factor).diagonal(dim1=-2, dim2=-1).copy_(diagonals)
    return matrices
