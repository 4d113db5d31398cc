"""Task vectors (Ilharco et al., 2023): fine-tuned minus pre-trained weights, and their arithmetic."""

import copy
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from numbers import Number
from pathlib import Path

import torch
from torch import Tensor, nn

from src.checkpoints.bundles import PRETRAINED, open_bundle
from src.checkpoints.factors import Factors
from src.checkpoints.naming import spelled_like
from src.checkpoints.opening import open_checkpoint, open_finetuned
from src.checkpoints.reading import open_files, open_tangent_pair
from src.elementwise import Elementwise, add_vector, as_complex, is_zeros_view, operands, zeros_view, zip_with
from src.errors import UserError, plural, shorten
from src.state_dict import StateDict, is_weight, model_differences, outline, same_values, vector_outline

Source = str | os.PathLike | StateDict | nn.Module


class TaskVector(Mapping[str, Tensor]):
    """A vector over named parameters: a mapping from names to tensors, with arithmetic.

    `TaskVector(pretrained, finetuned)` takes paths, state dicts or modules (as fine-tuned ones also folders of adapters,
    and other spellings of the names) and is their difference over all floating-point and complex entries, in float32
    (float64 for float64, complex for complex). `TaskVector.of(entries)` wraps tensors as they are.

    Vectors are lazy: an expression such as `0.5 * a + 0.7 * b` over files computes an entry when it is asked for and
    keeps none; `.load()` keeps them all. An entry that is equal in both models takes no memory, and neither does what
    sums, products and multiples make of it. Vectors of other names or shapes raise ValueError naming them. Integers that
    fine-tuning changed are in no vector; a warning names them.
    """

    __array_ufunc__ = None  # numpy's numbers leave arithmetic to __rmul__ and its like, rather than make arrays of names
    _origin = ""  # of the entries, in words

    def __init__(self, pretrained: Source, finetuned: Source):
        before = _read(pretrained)
        after = _read(finetuned, before)
        for note in (*getattr(before, "notes", ()), *getattr(after, "notes", ())):
            warnings.warn(note, stacklevel=2)
        after = spelled_like(after, before).entries
        problems = model_differences("the pre-trained", before, "the fine-tuned", after)
        if problems:
            raise UserError(problems)
        others = [key for key, leaf in outline(before).items() if not is_weight(leaf)]
        if changed := [key for key in others if not torch.equal(before[key].cpu(), after[key].cpu())]:
            warnings.warn(f"in no task vector, though fine-tuning changed them: {shorten(changed)}", stacklevel=2)
        entries, sources = _Difference(before, after), (finetuned, pretrained)
        on_disk = all(isinstance(source, str | os.PathLike) for source in sources)
        # a module or dict may be trained on after this; a file is not expected to change under us
        self._entries = entries if on_disk else dict(entries)
        self._origin = " minus ".join(os.fspath(source) if isinstance(source, str | os.PathLike) else type(source).__name__
                                      for source in sources)  # fmt: skip

    @classmethod
    def of(cls, entries: StateDict) -> "TaskVector":
        """Return a vector with these entries."""
        vector = cls.__new__(cls)
        vector._entries = entries
        return vector

    @classmethod
    def from_bundle(cls, folder: str | os.PathLike, task: str) -> "TaskVector":
        """Return the vector of one task of a bundle (`output_kind=bundle`), rebuilt an entry at a time.

        Raise UserError if the bundle has no such task.
        """
        compact, _ = open_bundle(folder)
        if task not in compact.parts:
            raise UserError(f"{folder} is a bundle of {', '.join(compact.parts)}, and has no {task}")
        vector = cls.of(as_complex(compact.vector(task), open_files(Path(folder) / PRETRAINED)))
        vector._origin = f"{folder}/{task}"
        return vector

    @property
    def vector(self) -> StateDict:
        """The entries by name: what the papers' code calls `task_vector.vector`."""
        return self._entries

    @property
    def outline(self) -> StateDict:
        """Shapes and dtypes of the entries, without computing them."""
        return outline(self._entries)

    def operands(self, key: str) -> tuple[Callable[..., Tensor], list[Tensor]]:
        """Return the function and the tensors that an entry is computed from (see `elementwise.operands`)."""
        return operands(self._entries, key)

    def __getitem__(self, key: str) -> Tensor:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        shapes = self.outline
        names = shorten([f"{key} {tuple(leaf.shape)}" for key, leaf in shapes.items()])
        numbers = sum(leaf.numel() for leaf in shapes.values())
        origin = f", {self._origin}" if self._origin else ""
        return f"<{type(self).__name__}{origin}: {plural(len(shapes), 'entry')}, {plural(numbers, 'number')} ({names})>"

    __eq__ = object.__eq__  # Mapping would compare tensors for truth
    __hash__ = object.__hash__

    def factors(self, key: str) -> Factors | None:
        """Return the low-rank factors whose product an entry is; None if none are known."""
        return None

    def load(self) -> "TaskVector":
        """Return this vector with every entry computed and kept in memory."""
        return self.of({key: self[key] for key in self})

    def map(self, change: Callable[[str, Tensor], Tensor]) -> "TaskVector":
        """Return the vector whose entries are `change(key, entry)`, an elementwise function that keeps the dtype."""
        return self.of(Elementwise(self.outline, lambda key: partial(change, key), [self._entries]))

    def _with(self, other: object, combine: Callable[[Tensor, object], Tensor]) -> "TaskVector":
        if isinstance(other, Number) or (isinstance(other, Tensor) and other.ndim == 0):
            return self.of(zip_with(lambda leaf: combine(leaf, other), self._entries))
        if isinstance(other, TaskVector):
            return self.of(zip_with(combine, self._entries, other._entries))
        return NotImplemented

    def __add__(self, other: object) -> "TaskVector | dict[str, Tensor]":
        if isinstance(other, Mapping) and not isinstance(other, TaskVector):
            return self.apply_to(other)
        return self._with(other, lambda a, b: a + b)

    def __radd__(self, other: object) -> "TaskVector | dict[str, Tensor]":
        return self + other  # also what lets sum([...]) start from 0, and `state_dict + vector`

    def __sub__(self, other: object) -> "TaskVector":
        return self._with(other, lambda a, b: a - b)

    def __rsub__(self, other: object) -> "TaskVector":
        return (-self)._with(other, lambda a, b: a + b)

    def __mul__(self, other: object) -> "TaskVector":
        return self._with(other, lambda a, b: a * b)

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> "TaskVector":
        return self._with(other, lambda a, b: a / b)

    def __neg__(self) -> "TaskVector":
        return self._with(-1, lambda a, b: a * b)

    def __abs__(self) -> "TaskVector":
        return self.of(zip_with(torch.abs, self._entries))

    abs = __abs__

    def __gt__(self, other: object) -> "TaskVector":
        return self._with(other, lambda a, b: a > b)

    def __lt__(self, other: object) -> "TaskVector":
        return self._with(other, lambda a, b: a < b)

    def __ge__(self, other: object) -> "TaskVector":
        return self._with(other, lambda a, b: a >= b)

    def __le__(self, other: object) -> "TaskVector":
        return self._with(other, lambda a, b: a <= b)

    def sum(self) -> float:
        """Return the sum of all entries, of complex ones the real part; of a mask, the number that are on."""
        return sum(_real(self[key]).sum(dtype=torch.float64).item() for key in self)

    def norm(self, order: float = 2) -> float:
        """Return the 1- or 2-norm over all entries, accumulated in float64."""
        if order not in (1, 2):
            raise ValueError(f"norm is of order 1 or 2; got {order}")
        total = 0.0
        for leaf in (entry for entry in self.values() if not is_zeros_view(entry)):
            for chunk in leaf.reshape(-1).split(2**20):  # only a chunk at a time is held in double precision
                total += (chunk.abs() if chunk.is_complex() else chunk).double().abs().pow(order).sum().item()
        return total ** (1 / order)

    def dot(self, other: "TaskVector") -> float:
        """Return the inner product, accumulated in float64; of complex entries the real part."""
        return self._with(other, lambda a, b: a * (b.conj() if b.is_complex() else b)).sum()

    def cosine(self, other: "TaskVector") -> float:
        """Return the cosine of the angle to `other`; 0 if either is zero."""
        norms = self.norm() * other.norm()
        return self.dot(other) / norms if norms else 0.0

    def apply_to(self, pretrained: Source, scaling_coef: float = 1.0) -> "dict[str, Tensor] | nn.Module":
        """Return `pretrained` plus `scaling_coef` times this vector: a new state dict, or a new module for a module.

        Every entry keeps the dtype it has in `pretrained`. Entries that this vector lacks or does not change share their
        memory with `pretrained`, so that twenty merged models cost one copy of what they have in common; a module has
        memory of its own.

        Raise UserError if the vector has names or shapes that `pretrained` has not, or an entry overflows its dtype.
        """
        edited = dict(add_vector(_read(pretrained), self, scaling_coef))
        if not isinstance(pretrained, nn.Module):
            return edited
        module = copy.deepcopy(pretrained)
        module.load_state_dict(edited)
        return module


class ModelVector(TaskVector):
    """The vector from one model to another, whose entries can be computed; added once, it gives the other model to the bit.

    start, end: the models.
    """

    @classmethod
    def of_models(cls, entries: StateDict, start: StateDict, end: StateDict) -> "ModelVector":
        """Return the vector with the entries of `end` minus those of `start`."""
        vector = cls.of(entries)
        vector.start, vector.end = start, end
        return vector


class LowRankVector(TaskVector):
    """A vector some of whose entries are products of low-rank factors, which stay known.

    factors: returns the factors of an entry; None if it has none.
    """

    @classmethod
    def of_factors(cls, entries: StateDict, factors: Callable[[str], Factors | None]) -> "LowRankVector":
        """Return the vector with these entries."""
        vector = cls.of(entries)
        vector.factors = factors
        return vector


class _PapersTaskVector(TaskVector):
    """Base of the two classes of the tangent-space papers, which add up and apply to models of either kind.

    Both kinds go by the same parameter names, so they add up as they are, the sum being of the first one's kind, and
    apply to models of both kinds.
    """

    def apply_to_nonlinear(self, pretrained: Source, scaling_coef: float = 1.0) -> "dict[str, Tensor] | nn.Module":
        """`apply_to` on a model, or weights, that will be used as they are."""
        return self.apply_to(pretrained, scaling_coef)

    def apply_to_linear(self, pretrained: Source, scaling_coef: float = 1.0) -> "dict[str, Tensor] | nn.Module":
        """`apply_to` on a tangent model (`models.linearize.LinearizedModel`), or on weights that will be used by one."""
        return self.apply_to(pretrained, scaling_coef)


class NonLinearTaskVector(_PapersTaskVector):
    """The task vector of ordinary fine-tuning, by the name it has in the tangent-space papers."""


class LinearizedTaskVector(_PapersTaskVector):
    """The task vector of a tangent model's fine-tuning (Ortiz-Jimenez et al., NeurIPS 2023).

    Files of the released code, which number their parameters, are read by name like all others:
    `LinearizedTaskVector("linear_zeroshot.pt", "linear_finetuned.pt")`, or `.of_checkpoint("linear_finetuned.pt")`.
    """

    @classmethod
    def of_checkpoint(cls, path: str | os.PathLike) -> "LinearizedTaskVector":
        """Return the vector of a linearized checkpoint, which holds the model it is linear around beside the fine-tuned one.

        Raise UserError if the file holds one model only.
        """
        finetuned, reference = open_tangent_pair(path)
        if reference is None:
            raise UserError(
                f"{path} holds no model that it is linear around; give both: LinearizedTaskVector(pretrained, finetuned)"
            )
        return cls(reference, finetuned)


class _Difference(Elementwise):
    """Fine-tuned minus pre-trained entries, in working dtypes; zeros views where they are equal."""

    def __init__(self, before: StateDict, after: StateDict):
        outline = vector_outline(before)
        super().__init__(outline, lambda key: partial(_subtract, outline[key].dtype), (after, before))

    def operands(self, key: str) -> tuple[Callable[..., Tensor], list[Tensor]]:
        combine, leaves = super().operands(key)
        end, start = leaves = [leaf.detach() for leaf in leaves]
        if start.device == end.device and same_values(start, end):
            return lambda zeros: zeros, [zeros_view(self.outline[key], start.device)]
        return combine, leaves


def _subtract(dtype: torch.dtype, end: Tensor, start: Tensor) -> Tensor:
    return end.to(dtype) - start.to(dtype)


def _read(source: Source, pretrained: StateDict | None = None) -> StateDict:
    """Return the state dict of a source; of a fine-tuned one on disk, with adapters added to `pretrained`."""
    if isinstance(source, nn.Module):
        return source.state_dict()
    if isinstance(source, Mapping):
        return source
    return open_checkpoint(source) if pretrained is None else open_finetuned(source, pretrained)


def _real(leaf: Tensor) -> Tensor:
    return leaf.real if leaf.is_complex() else leaf
