"""Model Breadcrumbs (Davari and Belilovsky, ECCV 2024): drop the largest and the smallest entries of each row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from src.errors import UserError
from src.merging.engine.edits import Edit, Span
from src.merging.engine.ranks import ranks_in_rows
from src.merging.sparsified import Sparsified, is_share


@dataclass(frozen=True, kw_only=True)
class Breadcrumbs(Sparsified):
    """`base` on task vectors of which each row keeps the next largest share `density` below its largest share `gamma`.

    A row lies along a parameter's last dimension, and shares of it are rounded down, so that a row too short for `density`
    keeps nothing; of equal magnitudes the later counts as larger. A parameter without dimensions stays as it is.
    """

    density: float
    gamma: float

    def __post_init__(self):
        super().__post_init__()
        if not (is_share(self.density) and is_share(self.gamma) and self.density + self.gamma <= 1):
            raise UserError(
                "method.density and method.gamma are the shares of a row that are kept and dropped above, together at most 1; "
                f"got {self.density} and {self.gamma}"
            )

    @property
    def edit(self) -> Edit:
        return Band(self.density, self.gamma)


@dataclass(frozen=True)
class Band(Edit):
    """Entries of a row that are not among its next largest share `density` below the largest share `gamma` become zero."""

    density: float
    gamma: float

    def row_length(self, shape: torch.Size) -> int:
        return shape[-1] if shape else 1

    def __call__(self, stack: Tensor, spans: Sequence[Span], tasks: Sequence[str]) -> None:
        for span in (span for span in spans if span.shape):
            length = self.row_length(span.shape)
            above = length - int(self.gamma * length)
            least = above - int(self.density * length)
            for row in stack[:, span.columns]:
                rows = row.view(-1, length)
                ranks = ranks_in_rows(rows.abs())
                rows.mul_((ranks >= least) & (ranks < above))
