"""DELLA (Deep et al., 2024): drop entries of the task vectors at random, small ones of a row more often than large ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from src.errors import raise_any
from src.merging.engine.edits import Edit, Span
from src.merging.engine.random_bits import bound, random_bits
from src.merging.engine.ranks import ranks_in_rows
from src.merging.sparsified import Sparsified, keep, seed_problems
from src.validation import is_number


@dataclass(frozen=True, kw_only=True)
class Della(Sparsified):
    """`base` on task vectors of which each entry is kept with a probability p, times 1 / p, or zero; p rises with the rank of
    the entry's magnitude in its row from `density` - `epsilon` to `density` + `epsilon`.

    A row is all that belongs to one output, and a parameter of one dimension is one row; of equal magnitudes the later counts
    as larger. A parameter without dimensions stays as it is.

    seed: what is kept depends on it, and on the names of the task and the parameter.
    """

    density: float
    epsilon: float
    seed: int

    def __post_init__(self):
        super().__post_init__()
        density, epsilon = self.density, self.epsilon
        is_range = is_number(density) and is_number(epsilon) and 0 <= epsilon < density <= 1 - epsilon
        problem = (
            "method.density - method.epsilon must be above 0, and their sum at most 1, as these are the least and the largest "
            f"probability to keep an entry; got {density} and {epsilon}, so give another method.epsilon, such as 0"
        )
        raise_any([*([] if is_range else [problem]), *seed_problems(self.seed)])

    @property
    def edit(self) -> Edit:
        return RankedDrop(self.density, self.epsilon, self.seed)


@dataclass(frozen=True)
class RankedDrop(Edit):
    """Entries are kept with probabilities by their ranks, and divided by these, or become zero."""

    density: float
    epsilon: float
    seed: int

    def row_length(self, shape: torch.Size) -> int:
        return shape.numel() // shape[0] if len(shape) > 1 else shape.numel()

    def __call__(self, stack: Tensor, spans: Sequence[Span], tasks: Sequence[str]) -> None:
        rowed = [span for span in spans if span.shape]
        tables = {length: self.probabilities(length) for length in {self.row_length(span.shape) for span in rowed}}
        limits = {length: bound(table).to(stack.device) for length, table in tables.items()}
        shares = {length: table.to(stack) for length, table in tables.items()}
        for row, bits in zip(stack, random_bits(self.seed, spans, tasks, stack.shape[1], stack.device)):
            for span in rowed:
                length = self.row_length(span.shape)
                values = row[span.columns]
                ranks = ranks_in_rows(values.view(-1, length).abs()).view(-1)
                limit, probability = (table[length].index_select(0, ranks) for table in (limits, shares))
                keep(values, bits[span.columns], limit, probability)

    def probabilities(self, length: int) -> Tensor:
        """Return the probability of an entry to be kept by its rank in a row, (length,), float64."""
        if length == 1:
            return torch.tensor([self.density], dtype=torch.float64)
        return torch.linspace(self.density - self.epsilon, self.density + self.epsilon, length, dtype=torch.float64)
