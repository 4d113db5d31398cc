"""DARE (Yu et al., ICML 2024): drop entries of the task vectors at random, and rescale the rest to keep their mean."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from src.errors import raise_any
from src.merging.engine.edits import Edit, Span
from src.merging.engine.random_bits import bound, random_bits
from src.merging.sparsified import Sparsified, is_share, keep, seed_problems


@dataclass(frozen=True, kw_only=True)
class Dare(Sparsified):
    """`base` on task vectors of which each entry is kept with probability `density`, times 1 / density, or zero.

    seed: what is kept depends on it, and on the names of the task and the parameter.
    """

    density: float
    seed: int

    def __post_init__(self):
        super().__post_init__()
        problems = [] if is_share(self.density) else [f"method.density is the share of entries kept, 0 to 1; got {self.density}"]
        raise_any([*problems, *seed_problems(self.seed)])

    @property
    def edit(self) -> Edit:
        return RandomDrop(self.density, self.seed)


@dataclass(frozen=True)
class RandomDrop(Edit):
    """Each entry is kept with probability `density`, and divided by it, or becomes zero."""

    density: float
    seed: int

    def __call__(self, stack: Tensor, spans: Sequence[Span], tasks: Sequence[str]) -> None:
        if not self.density:
            stack.zero_()
            return
        bits = random_bits(self.seed, spans, tasks, stack.shape[1], stack.device)
        keep(stack, bits, bound(self.density).item(), self.density)
