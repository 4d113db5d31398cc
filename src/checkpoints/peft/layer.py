"""A layer's factors: which entries their product has the shape of, and such an entry with the product added."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.state_dict import working_dtype


@dataclass(frozen=True)
class Layer:
    """The factors of a layer of which peft says it is at `where`, and whose entries' names begin with `start`.

    called: its name in the settings' patterns; times: how often the product counts.
    down: (rank, *inputs); up: (outputs, rank, 1...); magnitude: one an output, of DoRA.
    turned: whether entries are (inputs, outputs) instead of (outputs, *inputs); None if their shape has to tell.
    """

    where: str
    start: str
    pattern_name: str
    multiplicity: int
    down: Tensor
    up: Tensor
    magnitude: Tensor | None
    transposed: bool | None

    def experts(self, leaf: Tensor) -> int:
        """How many matrices an entry stacks, each with factors of its own; 0 if it is no stack."""
        return leaf.shape[0] if leaf.ndim == 3 and self.down.ndim == 2 else 0

    def ways(self, leaf: Tensor) -> set[bool]:
        """The values of `turned` under which the product has the shape of `leaf`."""
        if self.down.ndim < 2 or self.up.ndim < 2 or not leaf.is_floating_point():
            return set()
        (rank, *inputs), outputs, experts = self.down.shape, self.up.shape[0], self.experts(leaf)
        if not rank or self.up.shape[1] != rank or self.up.numel() != outputs * rank or (experts and rank % experts):
            return set()
        if self.magnitude is not None and (experts or self.magnitude.numel() != outputs):
            return set()
        shape = list(leaf.shape[1:] if experts else leaf.shape)
        fits = {False: shape == [outputs, *inputs], True: shape == [*inputs, outputs]}
        return {way for way, fitting in fits.items() if fitting and self.transposed in (None, way)}

    def added(self, before: Tensor, scale: float, transposed: bool) -> Tensor:
        """An entry plus `scale` times the product; of DoRA, with the weights of each output at their length."""
        wide, experts = working_dtype(before.dtype), self.experts(before)
        down, up = (factor.to(device=before.device, dtype=wide).flatten(1) for factor in (self.down, self.up))
        if self.magnitude is None and not (down.any() and up.any()):
            return before
        if experts:
            down, up = down.reshape(experts, -1, down.shape[1]), up.reshape(up.shape[0], -1, experts).permute(2, 0, 1)
        product = down.mT @ up.mT if transposed else up @ down
        total = product.mul_(scale).reshape(before.shape).add_(before)
        if self.magnitude is not None:
            rows = total.T if transposed else total.flatten(1)  # a view, an output each
            lengths = self.magnitude.to(device=before.device, dtype=wide).reshape(-1, 1)
            rows.mul_(lengths / torch.linalg.norm(rows, dim=1, keepdim=True))
        return total
