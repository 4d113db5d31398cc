"""What an adapter changes of a model without any dense matrix: the low-rank factors of entries, and which have none."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from torch import Tensor


class LayerKind(Enum):
    """The kind of layer that factors belong to, by the shape of its weight."""

    LINEAR = "(outputs, inputs)"
    TRANSPOSED = "(inputs, outputs)"  # Conv1D of transformers
    EMBEDDING = "(tokens, dimensions)"


class Factors(NamedTuple):
    """A low-rank matrix, (m, n): scale times the product of up, (m, r), and down, (r, n)."""

    up: Tensor
    down: Tensor
    kind: LayerKind = LayerKind.LINEAR
    scale: float = 1.0

    @property
    def product(self) -> Tensor:
        """The matrix itself, (m, n)."""
        return (self.up @ self.down).mul_(self.scale)


@dataclass(frozen=True)
class AdapterChanges:
    """The changes that an adapter makes to a model.

    factors: by entry, where the change is their product.
    others: the entries that change in any other way, as with DoRA, or are replaced.
    base_model: name of the model that it was trained on, if its settings have it.
    """

    factors: Mapping[str, Factors]
    others: frozenset[str]
    base_model: str | None
