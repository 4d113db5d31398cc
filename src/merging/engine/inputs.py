"""`MergeInputs`, what a merging method is called with: it streams one slice, or one matrix, of all tasks at a time.

No elementwise merge is faster than reading every input byte once. Slices are cut so that the stack of all tasks stays in
a CPU's cache, and the buffer that holds it is used again for every slice: fresh memory is ten times slower to write than
warm memory. Decompositions see a whole matrix of all tasks, in a buffer that is used again too.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor

from src.checkpoints.factors import AdapterChanges
from src.checkpoints.opening import open_checkpoint
from src.checkpoints.solved import SolvedEntries
from src.elementwise import zeros_view
from src.errors import UserError, raise_any
from src.merging.engine.conjugate_gradient import Convergence
from src.merging.engine.edits import Edit, Span, aligned_size
from src.merging.engine.groups import Group, extended, groups_of
from src.merging.engine.order_statistics import RUN
from src.merging.engine.threads import Prefetched, parallel_map
from src.merging.engine.unlabelled import PredictionEntropy, Unlabelled
from src.state_dict import (
    Lazy,
    Memoized,
    StateDict,
    is_finite,
    model_differences,
    outline,
    same_values,
    vector_outline,
    weight_names,
)
from src.task_vectors import ModelVector, TaskVector

SLICE_BYTES = {"cpu": 2**19, "cuda": 2**25}  # of one task; on a CPU, threads wait for Python's lock the more, the less it is
BLOCK = 64  # columns that torch adds at a time, at most
T = TypeVar("T")


@dataclass(frozen=True)
class MergeInputs:
    """One pre-trained model, its fine-tuned copies by task, and where to compute.

    pretrained, finetuned: real entries (see `elementwise.as_real`); what is not floating-point is not merged.
    depth: returns the depth of a parameter, 0 (first block) to 1 (last block), None outside the blocks.
    is_layer: whether a two-dimensional parameter is a layer's matrix, which decompositions see whole.
    keep: whether vectors made here keep the entries they computed (a search reads them again) or not (a file is written).
    statistics: of the tasks, by kind and task, by parameter (see `engine.statistics`); read when a method needs them.
    read_model: returns the model at a path that is an option of a method, under the names of `pretrained`.
    solved: where parameters whose equations were solved are kept, for a run that is killed; None to keep none.
    edits: of the task vectors, in order, before they are merged (see `engine.edits`).
    memo: what edited copies of these inputs need not compute again.
    unlabelled: returns the entropy of predictions on unlabelled examples of the tasks; None where they have no data here.

    Raise UserError, with all problems at once, if the models' names or shapes differ.
    """

    pretrained: StateDict
    finetuned: Mapping[str, StateDict]
    depth: Callable[[str], float | None]
    is_layer: Callable[[str], bool]
    device: torch.device
    keep: bool
    statistics: Mapping[str, Mapping[str, StateDict]] = field(default_factory=dict, repr=False)
    read_model: Callable[[str], StateDict] = field(default=open_checkpoint, repr=False)
    solved: SolvedEntries | None = None
    edits: tuple[Edit, ...] = ()
    memo: dict = field(default_factory=dict, repr=False)
    unlabelled: Unlabelled | None = field(default=None, repr=False)

    def __post_init__(self):
        if "checked" not in self.memo:
            self.memo["checked"] = True
            problems = [problem for task, model in self.finetuned.items()
                        for problem in model_differences("the pre-trained model", self.pretrained, task, model)]  # fmt: skip
            if not self.finetuned:
                problems.append("there are no fine-tuned models to merge")
            if not weight_names(self.pretrained):
                problems.append("the pre-trained model has no floating-point entries, so there is nothing to merge")
            if problems:
                raise UserError(problems)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks, in order."""
        return tuple(self.finetuned)

    @cached_property
    def vectors(self) -> dict[str, TaskVector]:
        """Each task's vector, edited; where there are no edits, only that task's model is read for it."""
        if self.edits:
            return {task: self.slicewise(lambda stack, row=row: stack[row]) for row, task in enumerate(self.tasks)}
        return {task: self.only(task).slicewise(lambda stack: stack[0]) for task in self.tasks}

    @cached_property
    def adapters(self) -> dict[str, AdapterChanges]:
        """What the models that are adapters change, by task."""
        adapters = {task: getattr(model, "adapter", None) for task, model in self.finetuned.items()}
        return {task: adapter for task, adapter in adapters.items() if adapter}

    def only(self, task: str) -> "MergeInputs":
        """Return the inputs of one task, unedited."""
        return self._of(task, self.finetuned[task])

    def edited(self, edit: Edit) -> "MergeInputs":
        """Return these inputs with one more edit of their task vectors, after the others."""
        return replace(self, edits=(*self.edits, edit))

    @property
    def unedited(self) -> "MergeInputs":
        """These inputs without edits of their task vectors."""
        return replace(self, edits=())

    def model_at(self, path: str) -> StateDict:
        """Return the model at a path that is an option of a method. Raise UserError if it is of another architecture."""
        model = self.read_model(path)
        raise_any(model_differences("the pre-trained model", self.pretrained, path, model))
        return model

    def vector_to(self, path: str) -> ModelVector:
        """Return the vector to the model at a path that is an option of a method."""
        model = self.model_at(path)
        return ModelVector.of_models(self._of(path, model).slicewise(lambda stack: stack[0]), self.pretrained, model)

    def entropy_on(self, split: str, size: int, seed: int) -> PredictionEntropy:
        """Return the entropy of predictions on unlabelled examples (see `engine.unlabelled`). Raise UserError without any."""
        if self.unlabelled is None:
            raise UserError(
                "this method learns from unlabelled examples of the tasks, and files of weights come with none; choose their "
                "model, such as model=ViT-B-32, or another method"
            )
        return self.unlabelled(split, size, seed)

    def _of(self, name: str, model: StateDict) -> "MergeInputs":
        """Return the inputs with one model in the place of all, unedited."""
        return replace(self, finetuned={name: model}, edits=(), memo={})

    @cached_property
    def outline(self) -> dict[str, Tensor]:
        """The floating entries of a vector: their shapes and working dtypes, in the order of the pre-trained model."""
        return vector_outline(self.pretrained)

    @property
    def size(self) -> int:
        """The number of entries of a vector, those no task changed included."""
        return sum(leaf.numel() for leaf in self.outline.values())

    @property
    def unchanged_size(self) -> int:
        """The number of entries of a vector that are zero because no task changed their parameter."""
        return sum(leaf.numel() for key, leaf in self.outline.items() if not self.changed(key))

    def changed(self, key: str) -> bool:
        """Whether any task changed this parameter; the others are skipped, not decomposed."""
        changed = self.memo.setdefault("changed", {})
        if key not in changed:
            pretrained = self.pretrained[key]
            changed[key] = pretrained.numel() > 0 and any(
                not same_values(pretrained, model[key]) for model in self.finetuned.values()
            )
        return changed[key]

    def changed_integers(self) -> list[str]:
        """Return the names of entries that are not floating point and that some task changed: no merge has these changes."""
        return [key for key in outline(self.pretrained) if key not in self.outline
                and not all(torch.equal(self.pretrained[key], model[key]) for model in self.finetuned.values())]  # fmt: skip

    def is_matrix(self, key: str) -> bool:
        """Whether a parameter is a layer's matrix."""
        return self.outline[key].ndim == 2 and self.is_layer(key)

    def weights(self, key: str) -> tuple[Tensor, list[Tensor]]:
        """Return the flattened parameter `key`, (n,), of the pre-trained model and of each task's, as they are stored."""
        return self.pretrained[key].reshape(-1), [model[key].reshape(-1) for model in self.finetuned.values()]

    def each(self, key: str, visit: Callable[[slice, Tensor], T]) -> Iterator[T]:
        """Yield `visit(part, stack)` of every slice of the flattened parameter `key`, in order; slices start at multiples of 8.

        The stack holds the task vectors' entries there, (tasks, n), on the device, edited. It is valid during the
        visit, which may change it; visits of one parameter run side by side on a CPU's cores.

        Raise UserError naming the task and parameter if an entry is NaN or infinite.
        """
        pretrained, models = self.weights(key)
        shape, dtype = self.outline[key].shape, self.outline[key].dtype
        usual = self._slice_size(dtype)
        size = aligned_size(usual, [edit.row_length(shape) for edit in self.edits])

        def at(start: int) -> T:
            part = slice(start, min(start + size, len(pretrained)))
            with self._buffer(dtype, len(models) * max(size, usual)) as buffer:
                stack = buffer[: len(models) * size].view(len(models), size)[:, : part.stop - part.start]
                self._subtract(pretrained[part], [model[part] for model in models], stack)
                self._finish(stack, [Span(key, shape, start, slice(0, part.stop - start))])
                return visit(part, stack)

        starts = range(0, len(pretrained), size)
        return parallel_map(at, starts, self.device) if len(starts) > 1 else map(at, starts)

    def scan(self, visit: Callable[[Tensor], T]) -> Iterator[T]:
        """Yield `visit(stack)`, the stack (tasks, n), of every slice of every changed parameter; unchanged ones are zero."""
        for key in self.outline:
            if self.changed(key):
                yield from self.each(key, lambda _, stack: visit(stack))

    def scan_together(self, visit: Callable[[Tensor], T], step: int = 1) -> Iterator[T]:
        """As `scan`, but small parameters share a stack: for what does not depend on how entries are grouped, as counts.

        Thousands of small parameters (of experts, say) cost hardly more than their bytes then.

        step: visit about one entry in so many: of parameters larger than a slice in runs, of which the others are not read.
        """

        def at(group: Group) -> list[T]:
            if len(group.starts) == 1:
                (key,) = group.starts
                if step > 1 and group.size > self._slice_size(group.dtype):
                    return list(self._runs(key, visit, step))
                return list(self.each(key, lambda _, stack: visit(stack[:, ::step])))
            with self._read(group, group.size) as stack:
                return [visit(stack[:, ::step])]

        for results in parallel_map(at, self._groups, self.device):
            yield from results

    def _runs(self, key: str, visit: Callable[[Tensor], T], step: int) -> Iterator[T]:
        """Yield `visit(stack)`, the stack (tasks, n), of one in `step` runs of RUN entries, or of whole rows, of a parameter."""
        pretrained, models = self.weights(key)
        shape, dtype = self.outline[key].shape, self.outline[key].dtype
        row, usual = math.lcm(*(edit.row_length(shape) for edit in self.edits)), self._slice_size(dtype)
        length = max(RUN // row, 1) * row
        period, count = length * step, max(usual // length, 1)
        # from another place in each parameter, or a model of many would be sampled most at their first rows
        starts = range(sum(key.encode()) % step * length, len(pretrained) - length + 1, period)
        for first in range(0, len(starts), count):
            at = starts[first : first + count]
            end = at[-1] + length
            base, *others = (flat[at[0] : end].unfold(0, length, period) for flat in (pretrained, *models))
            with self._buffer(dtype, len(models) * max(count * length, usual)) as buffer:
                stack = buffer[: len(models) * len(at) * length].view(len(models), len(at), length)
                self._subtract(base, others, stack)
                stack = stack.flatten(1)
                spans = [Span(key, shape, start, slice(number * length, (number + 1) * length))
                         for number, start in enumerate(at)]  # fmt: skip
                self._finish(stack, spans)
                yield visit(stack)

    def slicewise(self, merge: Callable[[Tensor], Tensor]) -> TaskVector:
        """Return the vector whose every slice is `merge(stack)`, (tasks, n) -> (n); zero where no task changed a parameter.

        Small parameters share a stack, and are merged when the first of them is read.
        """
        groups = {next(iter(group.starts)): group for group in self._groups}
        last: Mapping[str, Tensor] = {}  # the merged parameters of the group that was read last

        def entry(key: str) -> Tensor:
            nonlocal last
            leaf = self.outline[key]
            if not self.changed(key):
                return zeros_view(leaf, self.device)
            if leaf.numel() <= self._slice_size(leaf.dtype):
                if key in groups:
                    last = self._merged(groups[key], merge)
                group = last  # another thread may read another group meanwhile
                return group[key] if key in group else self._merged(Group.of(key, leaf), merge)[key]
            return self._by_parts(key, lambda _, stack: merge(stack))

        return self._vector(entry)

    def partwise(self, merge: Callable[[str, slice, Tensor], Tensor]) -> TaskVector:
        """As `slicewise`, but `merge(key, part, stack)` hears which part of which parameter it merges."""

        def entry(key: str) -> Tensor:
            if not self.changed(key):
                return zeros_view(self.outline[key], self.device)
            return self._by_parts(key, partial(merge, key))

        return self._vector(entry)

    def matrixwise(
        self, keys: Iterable[str], merge: Callable[[str, Tensor], Tensor], rest: Callable[[Tensor], Tensor]
    ) -> TaskVector:
        """Return the vector whose parameters `keys` are `merge(key, stack)`, (tasks, m, n) -> (m, n), one a core, and whose
        other entries are `rest(stack)`, (tasks, n) -> (n), a slice at a time; zero where no task changed a parameter."""
        others, matrices = self.slicewise(rest), self.each_parameter(keys, merge)
        return self._vector(lambda key: matrices[key].contiguous() if key in matrices else others[key])

    def parameterwise(
        self,
        is_whole: Callable[[str], bool],
        merge: Callable[[str, Tensor], Tensor],
        rest: Callable[[Tensor], Tensor],
    ) -> TaskVector:
        """Return the vector whose parameters `is_whole` names are `merge(key, stack)`, the stack (tasks, *shape), whole, and
        whose other entries are `rest(stack)`, (tasks, n) -> (n), a slice at a time; zero where no task changed a parameter."""
        others = self.slicewise(rest)

        def entry(key: str) -> Tensor:
            if not (is_whole(key) and self.changed(key)):
                return others[key]
            with self.stacked(key) as stack:  # on all cores: statistics of one parameter at a time are enough to hold
                return merge(key, stack).to(self.outline[key].dtype).contiguous()

        return self._vector(entry)

    def each_parameter(self, keys: Iterable[str], work: Callable[[str, Tensor], T]) -> Mapping[str, T]:
        """Return `work(key, stack)`, the stack (tasks, *shape), by key for the changed ones of `keys`; computed when read.

        Read in order, parameters are worked on side by side, one core each.
        """

        def make(key: str) -> T:
            with self.stacked(key) as stack:
                return work(key, stack)

        return Prefetched([key for key in keys if self.changed(key)], make, self.device)

    @contextmanager
    def stacked(self, key: str) -> Iterator[Tensor]:
        """Yield the task vectors' entries of a changed parameter, (tasks, *shape), on the device, edited; free to change inside.

        Raise UserError naming the task and parameter if an entry is NaN or infinite.
        """
        leaf, tasks = self.outline[key], len(self.finetuned)
        with self._buffer(leaf.dtype, tasks * max(self._largest_matrix, leaf.numel())) as buffer:
            stack = buffer[: tasks * leaf.numel()].view(tasks, -1)

            def visit(part: slice, values: Tensor) -> None:
                stack[:, part] = values

            for _ in self.each(key, visit):
                pass
            yield stack.view(tasks, *leaf.shape)

    def _by_parts(self, key: str, merge: Callable[[slice, Tensor], Tensor]) -> Tensor:
        """Return the parameter whose every slice is `merge(part, stack)`, (tasks, n) -> (n)."""
        leaf = self.outline[key]
        out = torch.empty(leaf.shape, dtype=leaf.dtype, device=self.device)
        flat = out.view(-1)

        def visit(part: slice, stack: Tensor) -> None:
            flat[part] = merge(part, stack)

        for _ in self.each(key, visit):
            pass
        return out

    def _merged(self, group: Group, merge: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return `merge(stack)`, (tasks, n) -> (n), of a group by parameter."""
        # torch adds the columns at the end of a stack in another order than those of whole blocks: with zeros to fill the
        # last block, no column's sum depends on the parameters beside it
        width = min(-(-group.size // BLOCK) * BLOCK, self._slice_size(group.dtype))
        flat = torch.empty(width, dtype=group.dtype, device=self.device)
        with self._read(group, width) as stack:
            flat[:] = merge(stack)
        return {key: flat[start : start + self.outline[key].numel()].view(self.outline[key].shape)
                for key, start in group.starts.items()}  # fmt: skip

    @contextmanager
    def _read(self, group: Group, width: int) -> Iterator[Tensor]:
        """Yield the task vectors' entries of a group, (tasks, width), on the device, edited; zeros after its last."""
        tasks, size = len(self.finetuned), self._slice_size(group.dtype)
        with self._buffer(group.dtype, tasks * size) as buffer:
            stack = buffer.view(tasks, size)[:, :width]
            for run in group.runs:
                pretrained, *models = (extended(flat, run.size) for flat in self._flat(run.key))
                self._subtract(pretrained, models, stack[:, run.start : run.start + run.size])
            stack[:, group.size :] = 0
            shapes = {key: self.outline[key].shape for key in group.starts}
            self._finish(stack, [Span(key, shapes[key], 0, slice(start, start + shapes[key].numel()))
                                 for key, start in group.starts.items()])  # fmt: skip
            yield stack

    @property
    def _groups(self) -> list[Group]:
        """The changed parameters in order, small ones of one dtype together, as many as fit a slice."""
        if "groups" not in self.memo:
            changed = ((key, leaf) for key, leaf in self.outline.items() if self.changed(key))
            self.memo["groups"] = groups_of(changed, self._slice_size, self._flat)
        return self.memo["groups"]

    def _flat(self, key: str) -> list[Tensor]:
        """Return a parameter, (n,), of the pre-trained model and then of each task's."""
        pretrained, models = self.weights(key)
        return [pretrained, *models]

    @property
    def convergence(self) -> dict[str, Convergence]:
        """What became of each parameter's equations, where a method solves them by iteration, so far."""
        return self.memo.setdefault("convergence", {})

    @property
    def notes(self) -> list[str]:
        """Sentences for the record on what a method found, so far."""
        return self.memo.setdefault("notes", [])

    def _vector(self, entry: Callable[[str], Tensor]) -> TaskVector:
        return TaskVector.of((Memoized if self.keep else Lazy)(self.outline, entry))

    @cached_property
    def _largest_matrix(self) -> int:
        """The number of entries of the largest matrix that any task changed."""
        return max((leaf.numel() for key, leaf in self.outline.items() if leaf.ndim == 2 and self.changed(key)), default=0)

    @contextmanager
    def _buffer(self, dtype: torch.dtype, size: int) -> Iterator[Tensor]:
        """Yield a (size,) buffer that nobody else is using: visits run side by side."""
        idle = self.memo.setdefault("idle buffers", {}).setdefault((dtype, size), [])
        try:
            buffer = idle.pop()
        except IndexError:
            buffer = torch.empty(size, dtype=dtype, device=self.device)
        try:
            yield buffer
        finally:
            idle.append(buffer)

    def _slice_size(self, dtype: torch.dtype) -> int:
        """Return how many entries of one task are worked on at a time; a multiple of 8."""
        return max(SLICE_BYTES[self.device.type] // dtype.itemsize // 8 * 8, 8)

    def _subtract(self, pretrained: Tensor, models: Sequence[Tensor], stack: Tensor) -> None:
        """Write the differences of the models to `pretrained`, (n,) or (runs, n) each, into `stack`, (tasks, ..)."""
        base = pretrained.to(device=self.device, dtype=stack.dtype)
        for row, model in zip(stack, models):
            if model.dtype == stack.dtype and self.device.type == "cpu":
                torch.sub(model, base, out=row)
            else:
                row.copy_(model).sub_(base)

    def _finish(self, stack: Tensor, spans: Sequence[Span]) -> None:
        """Edit a stack in place. Raise UserError naming task and parameter if an entry is NaN or infinite."""
        if not math.isfinite(stack.sum().item()):
            keys = list(dict.fromkeys(span.key for span in spans))
            for key in keys:
                self._refuse_non_finite(key, is_last=key == keys[-1])
        for edit in self.edits:
            edit(stack, spans, self.tasks)

    def _refuse_non_finite(self, key: str, is_last: bool) -> None:
        models = {"the pre-trained model": self.pretrained, **self.finetuned}
        names = [name for name, model in models.items() if not is_finite(model[key])]
        if names:
            raise UserError(f"{key} holds NaN or infinite values in {', '.join(names)}; train or download these weights again")
        if is_last:
            raise UserError(
                f"the sum of the task vectors overflows {self.outline[key].dtype} in {key}; save the pre-trained model in float64"
            )
