"""Merges of adapters in the space that their low-rank factors span, where matrices are small and have no null directions.

The tasks' changes of an entry have small coordinates there, which any method merges in their place; what it makes of them is
a change of low rank again. Nothing of an entry's size is computed before it is asked for.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from src.checkpoints.factors import Factors
from src.elementwise import zeros_view
from src.errors import UserError, raise_any, shorten
from src.merging.engine.bases import FactorSpace
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.matrices import packed_names
from src.merging.engine.threads import parallel_map
from src.merging.method import MergeFamily, Method, Wrapper
from src.state_dict import Lazy, Memoized, is_finite, outline
from src.task_vectors import LowRankVector, TaskVector


def with_space(method: Method, space: str | None) -> Method:
    """Return `method` in one of `SPACES`; None: in core space, if it decomposes matrices and all models are adapters.

    Raise UserError if there is no such space, or the method can merge in none.
    """
    if space is None:
        return DefaultSpace(method) if method.decomposes and not (_obstacle(method) or method.drops_entries) else method
    if space not in SPACES:
        raise UserError(f"method.space is {', '.join(SPACES)} or null; got {space}")
    return SPACES[space](method)


def makes_factors(method: Method, inputs: MergeInputs) -> bool:
    """Whether the merged vector of a method `with_space` is known by low-rank factors."""
    return isinstance(method, Subspace) or (isinstance(method, DefaultSpace) and method.is_core(inputs))


def _obstacle(method: Method) -> str | None:
    """Return why a method merges whole entries alone, in words; None if it does not."""
    if method.per_task or method.mask_base:
        return "makes masks, or a model for each task"
    if method.needs or method.unlabelled_split:
        return "reads statistics of whole layers, or predictions of whole models"
    if method.files or not method.needs_models:
        return "takes whole models"
    return None


@dataclass(frozen=True)
class Subspace(Wrapper):
    """A method on the coordinates of what adapters change; entries that any of them changes otherwise are merged whole.

    name: the value of method.space.
    """

    name: ClassVar[str]

    def __post_init__(self):
        if problem := _obstacle(self.base):
            raise UserError(f"method.space={self.name}: this method {problem}; leave method.space out")

    @abstractmethod
    def space_of(self, factors: Mapping[str, Factors], device: torch.device) -> FactorSpace:
        """Return the space of one entry's changes, by task."""

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        spaces = self._spaces(inputs)
        family = self.base(_coordinate_inputs(inputs, spaces))

        def vectors(coefficient: float) -> dict[str, TaskVector]:
            merged = family(coefficient)
            lifted = {id(vector): _lifted(vector, inputs, spaces) for vector in merged.values()}
            return {task: lifted[id(vector)] for task, vector in merged.items()}

        return MergeFamily(vectors, family.scale)

    def notes(self, inputs: MergeInputs) -> list[str]:
        return self.base.notes(_coordinate_inputs(inputs, self._spaces(inputs)))

    def _spaces(self, inputs: MergeInputs) -> dict[str, FactorSpace]:
        """Return the spaces of the entries that adapters change by factors alone, and by more than zeros."""
        spaces = inputs.memo.setdefault("spaces", {})
        if self.name not in spaces:
            spaces[self.name] = self._make_spaces(inputs)
        return spaces[self.name]

    def _make_spaces(self, inputs: MergeInputs) -> dict[str, FactorSpace]:
        raise_any(
            f"method.space={self.name} is for adapters of peft, and {task} is a whole model; leave method.space out"
            for task in inputs.tasks
            if task not in inputs.adapters
        )
        others = _changed_otherwise(inputs)
        factors = {
            key: pairs
            for key in inputs.outline
            if key not in others
            and (pairs := {task: adapter.factors[key] for task, adapter in inputs.adapters.items() if key in adapter.factors})
        }
        if self.splits_attention and (keys := packed_names(factors)):
            raise UserError(
                f"method.space={self.name} has no queries, keys and values apart in {shorten(keys)}; merge them together, "
                "method.attention=packed, or whole, method.space=full"
            )
        raise_any(
            f"{key} has NaN or infinite factors in {task}; train or download this adapter again"
            for key, pairs in factors.items()
            for task, pair in pairs.items()
            if not (is_finite(pair.up) and is_finite(pair.down))
        )
        spaces = parallel_map(lambda pairs: self.space_of(pairs, inputs.device), factors.values(), inputs.device)
        return {key: space for key, space in zip(factors, spaces) if all(space.shape)}


def _changed_otherwise(inputs: MergeInputs) -> set[str]:
    """Return the entries that any adapter changes in other ways than by factors."""
    return {key for adapter in inputs.adapters.values() for key in adapter.others}


def _coordinate_inputs(inputs: MergeInputs, spaces: Mapping[str, FactorSpace]) -> MergeInputs:
    """Return inputs of the coordinates, as changes of zeros, and of the entries that are merged whole; no others."""
    others, shapes = _changed_otherwise(inputs), outline(inputs.pretrained)
    entries = {key: torch.empty(spaces[key].shape, dtype=torch.float64, device="meta") if key in spaces else shapes[key]
               for key in inputs.outline if key in spaces or key in others}  # fmt: skip

    def before(key: str) -> Tensor:
        return zeros_view(entries[key], inputs.device) if key in spaces else inputs.pretrained[key]

    def after(key: str, task: str) -> Tensor:
        return spaces[key].coordinates(task) if key in spaces else inputs.finetuned[task][key]

    models = {task: Lazy(entries, partial(after, task=task)) for task in inputs.tasks}
    return replace(inputs, pretrained=Lazy(entries, before), finetuned=models, statistics={}, solved=None, memo={})


def _lifted(vector: TaskVector, inputs: MergeInputs, spaces: Mapping[str, FactorSpace]) -> LowRankVector:
    """Return the vector of the models' shapes that has these coordinates."""

    def factors(key: str) -> Factors | None:
        return spaces[key].lifted(vector[key], inputs.outline[key].dtype) if key in spaces else None

    def entry(key: str) -> Tensor:
        if pair := factors(key):
            return pair.product
        return vector[key] if key in vector else zeros_view(inputs.outline[key], inputs.device)

    return LowRankVector.of_factors((Memoized if inputs.keep else Lazy)(inputs.outline, entry), factors)


@dataclass(frozen=True)
class CoreSpace(Subspace):
    """Core Space (Panariello et al., NeurIPS 2025): merge U^T dW V, of bases that the tasks' factors span on both sides."""

    name: ClassVar[str] = "core"

    def space_of(self, factors: Mapping[str, Factors], device: torch.device) -> FactorSpace:
        return FactorSpace.core(factors, device)


@dataclass(frozen=True)
class Knots(Subspace):
    """KnOTS (Stoica et al., ICLR 2025): merge U^T dW, of the left singular vectors of all tasks' changes side by side."""

    name: ClassVar[str] = "knots"

    def space_of(self, factors: Mapping[str, Factors], device: torch.device) -> FactorSpace:
        return FactorSpace.knots(factors, device)


@dataclass(frozen=True)
class DefaultSpace(Wrapper):
    """A method that decomposes matrices: in core space where all models are adapters, as it is where any is not.

    The null directions of whole matrices of low rank are arbitrary, and a method that equalises singular values would use them.
    """

    @property
    def description(self) -> dict:
        return self.base.description

    def is_core(self, inputs: MergeInputs) -> bool:
        """Whether the method merges in core space."""
        return _are_adapters(inputs) and not self._packed(inputs)

    def _packed(self, inputs: MergeInputs) -> list[str]:
        """Return the entries with factors that hold what the method merges apart."""
        names = dict.fromkeys(key for adapter in inputs.adapters.values() for key in adapter.factors)
        return packed_names(names) if self.splits_attention else []

    def __call__(self, inputs: MergeInputs) -> MergeFamily:
        return CoreSpace(self.base)(inputs) if self.is_core(inputs) else self.base(inputs)

    def notes(self, inputs: MergeInputs) -> list[str]:
        if not self.is_core(inputs):
            packed = self._packed(inputs) if _are_adapters(inputs) else []
            note = (
                f"all models are adapters, and yet merged as whole matrices, as method.attention=split takes {shorten(packed)} "
                "apart; method.attention=packed merges them in the core space that their factors span"
            )
            return [*self.base.notes(inputs), *[note] * bool(packed)]
        return [
            *CoreSpace(self.base).notes(inputs),
            "all models are adapters, so their matrices are merged in the core space that their factors span; method.space=full "
            "merges whole ones, whose null directions are arbitrary",
        ]


def _are_adapters(inputs: MergeInputs) -> bool:
    """Whether all models are adapters with factors."""
    return all(task in inputs.adapters and inputs.adapters[task].factors for task in inputs.tasks)


SPACES: dict[str, Callable[[Method], Method]] = {"full": lambda method: method, "core": CoreSpace, "knots": Knots}
