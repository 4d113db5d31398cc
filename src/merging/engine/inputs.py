"""What a merging method is given, and how it streams: one slice, or one matrix, of all tasks at a time.

The floor of an elementwise merge is reading every input byte once. Slices are cut so that the stack of all tasks
stays in a CPU's cache, and the buffer that holds it is used again for every slice: fresh memory is ten times slower
to write than warm memory. Decompositions see a whole matrix of all tasks, in a buffer that is used again too.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.threads import Ahead, side_by_side
from src.state_dict import Kept, Lazy, StateDict, blank, floating, model_differences, moves_of
from src.task_vectors import TaskVector

SLICE_BYTES = {"cpu": 2**18, "cuda": 2**25}  # of one task
NO_LAYER = "text_projection"  # two-dimensional, and no layer: the papers merge it like a vector
Seen = TypeVar("Seen")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Ingredients:
    """One pre-trained model, its fine-tuned copies by task, and where to compute.

    depth: the place of a parameter in the network, 0 (first block) to 1 (last block), None outside the blocks.
    keep: whether vectors made here keep the entries they computed (a search asks again) or not (a file is written).
    floors: (tasks,) magnitudes below which an entry of a task vector counts as zero; None: nothing is trimmed.

    Raises UserError, with all problems at once, if the models' names or shapes differ.
    """

    pretrained: StateDict
    finetuned: Mapping[str, StateDict]
    depth: Callable[[str], float | None]
    device: torch.device
    keep: bool
    floors: Tensor | None = None
    shared: dict = field(default_factory=dict, repr=False)  # what trimmed copies of these ingredients need not redo

    def __post_init__(self):
        if "checked" not in self.shared:
            self.shared["checked"] = True
            found = [p for task, model in self.finetuned.items()
                     for p in model_differences("the pre-trained model", self.pretrained, task, model)]  # fmt: skip
            if not self.finetuned:
                found.append("there are no fine-tuned models to merge")
            if not floating(self.pretrained):
                found.append("the pre-trained model has no floating-point entries, so there is nothing to merge")
            if found:
                raise UserError(found)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.finetuned)

    @cached_property
    def vectors(self) -> dict[str, TaskVector]:
        """Each task's vector, untrimmed; only that task's model is read for it."""
        alone = (replace(self, finetuned={task: model}, floors=None, shared={}) for task, model in self.finetuned.items())
        return {given.tasks[0]: given.slicewise(lambda stack: stack[0]) for given in alone}

    @cached_property
    def outline(self) -> dict[str, Tensor]:
        """The floating entries of a vector: their shapes and working dtypes, in the order of the pre-trained model."""
        return moves_of(self.pretrained)

    @property
    def size(self) -> int:
        """How many entries a vector has, those no task changed included."""
        return sum(leaf.numel() for leaf in self.outline.values())

    def changed(self, key: str) -> bool:
        """Whether any task changed this parameter; the others are skipped, not decomposed."""
        known = self.shared.setdefault("changed", {})
        if key not in known:
            before = self.pretrained[key]
            models = (model[key] for model in self.finetuned.values())
            known[key] = before.numel() > 0 and any(
                after.dtype != before.dtype or not torch.equal(after, before) for after in models
            )
        return known[key]

    def each(self, key: str, visit: Callable[[slice, Tensor], Seen]) -> Iterator[Seen]:
        """`visit(part, stack)` of every slice of the flattened parameter `key`, in order; slices start at multiples of 8.

        The stack holds the task vectors' entries there, (tasks, n), on the device, trimmed. It is valid during the
        visit, which may edit it; visits of one parameter run side by side on a CPU's cores.
        Raises UserError naming the task and parameter if an entry is NaN or infinite.
        """
        before, models = self.weights(key)
        dtype = self.outline[key].dtype
        room = max(SLICE_BYTES[self.device.type] // dtype.itemsize // 8 * 8, 8)

        def at(start: int) -> Seen:
            part = slice(start, min(start + room, len(before)))
            with self._buffer(dtype, len(models) * room) as buffer:
                stack = buffer.view(len(models), room)[:, : part.stop - part.start]
                base = before[part].to(device=self.device, dtype=dtype)
                for row, model in zip(stack, models):
                    if model.dtype == dtype and self.device.type == "cpu":
                        torch.sub(model[part], base, out=row)
                    else:
                        row.copy_(model[part]).sub_(base)
                if not math.isfinite(stack.sum().item()):
                    self._refuse_non_finite(key)
                if self.floors is not None:
                    _trim(stack, self.floors)
                return visit(part, stack)

        starts = range(0, len(before), room)
        return side_by_side(at, starts, self.device) if len(starts) > 1 else map(at, starts)

    def weights(self, key: str) -> tuple[Tensor, list[Tensor]]:
        """The flattened parameter `key`, (n,), of the pre-trained model and of each task's, as they are stored."""
        return self.pretrained[key].reshape(-1), [model[key].reshape(-1) for model in self.finetuned.values()]

    def slicewise(self, merge: Callable[[Tensor], Tensor]) -> TaskVector:
        """The vector whose every slice is `merge(stack)`, (tasks, n) -> (n); zero where no task changed a parameter."""

        def entry(key: str) -> Tensor:
            leaf = self.outline[key]
            if not self.changed(key):
                return blank(leaf, self.device)
            out = torch.empty(leaf.shape, dtype=leaf.dtype, device=self.device)
            flat = out.view(-1)

            def visit(part: slice, stack: Tensor) -> None:
                flat[part] = merge(stack)

            for _ in self.each(key, visit):
                pass
            return out

        return TaskVector.of((Kept if self.keep else Lazy)(self.outline, entry))

    def is_matrix(self, key: str) -> bool:
        """Whether a parameter is a layer's matrix: two-dimensional, and not CLIP's text projection."""
        return self.outline[key].ndim == 2 and key.rpartition(".")[2] != NO_LAYER

    @contextmanager
    def stacked(self, key: str) -> Iterator[Tensor]:
        """The task vectors' entries of a changed matrix, (tasks, m, n), on the device, trimmed; valid, and free to edit,
        inside.

        Raises UserError naming the task and parameter if an entry is NaN or infinite.
        """
        leaf, tasks = self.outline[key], len(self.finetuned)
        with self._buffer(leaf.dtype, tasks * self._largest_matrix) as buffer:
            stack = buffer[: tasks * leaf.numel()].view(tasks, -1)

            def visit(part: slice, values: Tensor) -> None:
                stack[:, part] = values

            for _ in self.each(key, visit):
                pass
            yield stack.view(tasks, *leaf.shape)

    def matrixwise(self, merge: Callable[[Tensor], Tensor], rest: Callable[[Tensor], Tensor]) -> TaskVector:
        """The vector whose matrices are `merge(stack)`, (tasks, m, n) -> (m, n), and whose other entries are
        `rest(stack)`, (tasks, n) -> (n), a slice at a time; zero where no task changed a parameter."""
        others = self.slicewise(rest)
        merged = self.each_matrix(filter(self.is_matrix, self.outline), merge)

        def entry(key: str) -> Tensor:
            return merged[key] if key in merged else others[key]

        return TaskVector.of((Kept if self.keep else Lazy)(self.outline, entry))

    def each_matrix(self, keys: Iterable[str], work: Callable[[Tensor], Made]) -> Mapping[str, Made]:
        """`work(stack)`, (tasks, m, n), of those of these keys that any task changed, made when asked for; asked for in
        order, matrices are worked on side by side, one core each."""

        def make(key: str) -> Made:
            with self.stacked(key) as stack:
                return work(stack)

        return Ahead([key for key in keys if self.changed(key)], make, self.device)

    def scan(self, visit: Callable[[Tensor], Seen]) -> Iterator[Seen]:
        """`visit(stack)` of all changed parameters, for what needs the whole vector; the unchanged are zero."""
        for key in self.outline:
            if self.changed(key):
                yield from self.each(key, lambda _, stack: visit(stack))

    @cached_property
    def _largest_matrix(self) -> int:
        """Entries of the largest matrix that any task changed."""
        return max(leaf.numel() for key, leaf in self.outline.items() if leaf.ndim == 2 and self.changed(key))

    @contextmanager
    def _buffer(self, dtype: torch.dtype, room: int) -> Iterator[Tensor]:
        """A (room,) buffer that nobody else is using: visits run side by side."""
        idle = self.shared.setdefault("idle buffers", {}).setdefault((dtype, room), [])
        try:
            buffer = idle.pop()
        except IndexError:
            buffer = torch.empty(room, dtype=dtype, device=self.device)
        try:
            yield buffer
        finally:
            idle.append(buffer)

    def _refuse_non_finite(self, key: str) -> None:
        models = {"the pre-trained model": self.pretrained, **self.finetuned}
        found = [name for name, model in models.items() if not torch.isfinite(model[key]).all()]
        if found:
            raise UserError(f"{key} holds NaN or infinite values in {', '.join(found)}; train or fetch it again")
        raise UserError(f"the task vectors' entries of {key} are too large to add up in {self.outline[key].dtype}")


def _trim(stack: Tensor, floors: Tensor) -> None:
    """Set the entries below each row's floor to zero, in place."""
    for row, floor in zip(stack, floors):
        kept = smallest_kept(floor, row.dtype)
        if kept > 0:  # hardshrink keeps what is above its limit, in one pass and without a temporary
            torch.hardshrink(row, torch.nextafter(kept, torch.zeros_like(kept)).item(), out=row)


def smallest_kept(floor: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest magnitude of `dtype` that is not below `floor`, on the CPU."""
    kept = floor.cpu().to(dtype)
    if kept.double() < floor.double():
        kept = torch.nextafter(kept, torch.full_like(kept, torch.inf))
    return kept
