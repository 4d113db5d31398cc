"""DC-Merge (2026, directional consistency): merge the tasks' matrices in a space that their leading directions cover,
where each keeps its largest entries, and those whose signs agree are averaged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.merging.engine.linear_algebra import concatenated, leading_triplets_of_each, orthogonalised
from src.merging.engine.trimming import largest_entries
from src.merging.matrixwise import Matrixwise, lost_change
from src.validation import check_share


@dataclass(frozen=True, kw_only=True)
class DCMerge(Matrixwise):
    """The tasks' leading singular directions of each layer's matrices, 1/T of them a task, made orthogonal; in their space the
    largest entries whose signs agree.

    keep: share of the square of a matrix's rank, of whose entries each task keeps so many.
    """

    keep: float

    def __post_init__(self):
        super().__post_init__()
        check_share("method.keep", self.keep)

    def merge(self, stack: Tensor) -> Tensor:
        tasks, side = len(stack), min(stack.shape[1:])
        own = side // tasks
        parts = leading_triplets_of_each(stack, own)
        cover = orthogonalised(concatenated(parts))
        moves = torch.stack([(cover.left.T @ part.left * part.values) @ (part.right.T @ cover.right) for part in parts])
        merged = agreed(largest_entries(moves, max(1, int(self.keep * side**2))))
        blocks = torch.block_diag(*(torch.ones(own, own, device=stack.device) for _ in parts))  # of each task's own directions
        return cover.left @ (merged * blocks) @ cover.right.T

    def doubt(self, shape: torch.Size) -> str | None:
        return lost_change(shape)


def agreed(stack: Tensor) -> Tensor:
    """Return the mean of those entries, (tasks, m, n) -> (m, n), that have the sign of their sum; 0 where there are none."""
    signs = stack.sum(0).sign()
    agreeing = torch.where((stack.sign() == signs) & (signs != 0), stack, 0.0)
    return agreeing.sum(0) / (agreeing != 0).sum(0).clamp_min(1)
