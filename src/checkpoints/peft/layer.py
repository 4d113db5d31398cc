"""The factors of one adapted layer: which entries their product fits, and what it does to such an entry."""

from dataclasses import dataclass

import torch
from torch import Tensor

from src.checkpoints.factors import Factors, LayerKind
from src.state_dict import working_dtype


@dataclass(frozen=True)
class Layer:
    """The factors of one adapted layer.

    module_path: the layer's name in the adapter's file.
    prefix: what the names of the layer's entries begin with.
    pattern_name: the layer's name as the patterns of the settings see it.
    multiplicity: how often peft adds the product.
    down: (rank, *inputs).
    up: (outputs, rank), with dimensions of one behind them for convolutions.
    magnitude: of DoRA, one number an output; None without.
    transposed: whether entries are (inputs, outputs) instead of (outputs, *inputs); None if their shape has to tell.
    """

    module_path: str
    prefix: str
    pattern_name: str
    multiplicity: int
    down: Tensor
    up: Tensor
    magnitude: Tensor | None
    transposed: bool | None

    def experts(self, leaf: Tensor) -> int:
        """Return how many matrices an entry stacks, each with factors of its own; 0 if it is no stack."""
        return leaf.shape[0] if leaf.ndim == 3 and self.down.ndim == 2 else 0

    def orientations(self, leaf: Tensor) -> set[bool]:
        """Return the values of `transposed` with which the product has the shape of `leaf`."""
        if self.down.ndim < 2 or self.up.ndim < 2 or not leaf.is_floating_point():
            return set()
        (rank, *inputs), outputs, experts = self.down.shape, self.up.shape[0], self.experts(leaf)
        if not rank or self.up.shape[1] != rank or self.up.numel() != outputs * rank or (experts and rank % experts):
            return set()
        if self.magnitude is not None and (experts or self.magnitude.numel() != outputs):
            return set()
        shape = list(leaf.shape[1:] if experts else leaf.shape)
        fits = {False: shape == [outputs, *inputs], True: shape == [*inputs, outputs]}
        return {transposed for transposed, fit in fits.items() if fit and self.transposed in (None, transposed)}

    def apply(self, before: Tensor, scale: float, transposed: bool) -> Tensor:
        """Return an entry plus `scale` times the product; with DoRA, each output's weights are then scaled to its magnitude."""
        wide, experts = working_dtype(before.dtype), self.experts(before)
        down, up = (factor.to(device=before.device, dtype=wide).flatten(1) for factor in (self.down, self.up))
        if self.magnitude is None and not (down.any() and up.any()):
            return before
        if experts:
            down, up = down.reshape(experts, -1, down.shape[1]), up.reshape(up.shape[0], -1, experts).permute(2, 0, 1)
        product = down.mT @ up.mT if transposed else up @ down
        total = product.mul_(scale).reshape(before.shape).add_(before)
        if self.magnitude is not None:
            outputs = total.T if transposed else total.flatten(1)  # a view, one output a row
            magnitudes = self.magnitude.to(device=before.device, dtype=wide).reshape(-1, 1)
            outputs.mul_(magnitudes / torch.linalg.norm(outputs, dim=1, keepdim=True))
        return total


@dataclass(frozen=True)
class Product:
    """The change of one entry by a layer's factors, which a call makes (see `Layer.apply`)."""

    layer: Layer
    scale: float
    transposed: bool

    def __call__(self, before: Tensor) -> Tensor:
        return self.layer.apply(before, self.scale, self.transposed)

    def factors(self, leaf: Tensor) -> Factors | None:
        """Return the factors of the change of an entry of this shape; None if it is no product: DoRA, experts, convolutions."""
        layer = self.layer
        if layer.magnitude is not None or leaf.ndim != 2:
            return None
        if not self.transposed:
            return Factors(layer.up, layer.down, LayerKind.LINEAR, self.scale)
        kind = LayerKind.EMBEDDING if layer.transposed else LayerKind.TRANSPOSED
        return Factors(layer.down.mT, layer.up.mT, kind, self.scale)
