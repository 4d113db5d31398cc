"""(IA)^3 (Liu et al., NeurIPS 2022): a T5 whose keys, values and inner feed-forward activations are scaled by trained vectors.

The vector of a layer multiplies its output, entry by entry, and starts at ones. In T5 v1.1 it is on `wi_1`, whose output
the gate multiplies, so it scales the inputs of `wo`, as in the paper. T5 v1.0 has no gate: there it is on `wi`, before
the ReLU, which is the same as behind it while the vector is positive.
"""

import re

import torch
from torch import Tensor, nn

from src.checkpoints.naming import Spelling
from src.errors import UserError, shorten
from src.state_dict import Lazy, StateDict, outline

SCALED = ("k", "v", "wi_1", "wi")  # layers whose outputs are scaled, by the last part of their names
VECTOR = ".ia3"
NAMES = re.compile(
    r"(?:[\w.]*\.)?(?P<layer>(?:encoder|decoder)\.block\.\d+\.layer\.\d+\.\w+\.\w+)"
    r"(?:\.ia3|\.ia3_layer\.ia3_vector|(?P<peft>\.ia3_l)(?:\.default)?)"
)
INNER = re.compile(r"(.+\.DenseReluDense)\.wo")  # which peft scales the inputs of


def add_ia3(module: nn.Module) -> dict[str, Tensor]:
    """Give a T5 its vectors, parameters `<layer>.ia3` of ones, (outputs,); return such vectors by name.

    `module` itself is modified.
    """
    layers = {path: layer for path, layer in module.named_modules()
              if isinstance(layer, nn.Linear) and path.rpartition(".")[2] in SCALED}  # fmt: skip
    for layer in layers.values():
        layer.register_parameter("ia3", nn.Parameter(layer.weight.new_ones(layer.out_features)))
        layer.register_forward_hook(_scale)
    return {path + VECTOR: torch.ones(layer.out_features) for path, layer in layers.items()}


def is_ia3(weights: StateDict) -> bool:
    """Whether a file's entries are vectors, under whatever program's names."""
    return bool(weights) and all(map(NAMES.fullmatch, weights))


def spelled_as_ia3(weights: StateDict, vectors: StateDict) -> Spelling:
    """Return vectors under the names `<layer>.ia3`: ours, those of the released code of MaTS, or peft's.

    peft's vectors are matrices of one column, or of one row where they scale a layer's inputs: those of `wo` are the
    outputs of the layer before it. Entries of other names keep theirs.

    vectors: of the model, by name.

    Raise UserError if peft's file scales the inputs of another layer, or if a vector of a T5 without gates is not positive.
    """
    shapes, entries = outline(weights), {}
    for key in weights:
        match = NAMES.fullmatch(key)
        if match is None:
            entries[key] = key, shapes[key]
            continue
        layer = match["layer"]
        if match["peft"]:
            layer = _scaled_layer(layer, shapes[key], vectors, key)
            if layer.endswith(".wi") and INNER.fullmatch(match["layer"]) and not (weights[key] > 0).all():
                raise UserError(
                    f"{key} is not positive everywhere, and this model has no gate; merge it with peft's merge_and_unload"
                )
        entries[layer + VECTOR] = key, shapes[key].flatten()
    if len(entries) < len(shapes):
        raise UserError(f"several entries scale one layer (names are {shorten(shapes)}); give one adapter's")
    if all(name == key for name, (key, _) in entries.items()):
        return Spelling(weights)
    ordered = [*(name for name in vectors if name in entries), *(name for name in entries if name not in vectors)]
    shapes = {name: entries[name][1] for name in ordered}
    return Spelling(Lazy(shapes, lambda name: weights[entries[name][0]].reshape(shapes[name].shape)))


def _scale(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * layer.ia3.to(output.dtype)


def _scaled_layer(layer: str, leaf: Tensor, vectors: StateDict, key: str) -> str:
    """Return the layer whose outputs a vector of peft's scales. Raise UserError if there is none.

    layer: by whose name it goes.
    """
    is_of_inputs = leaf.ndim == 2 and leaf.shape[0] == 1 < leaf.shape[1]
    if not is_of_inputs:
        return layer
    inner = INNER.fullmatch(layer)
    before = next((f"{inner[1]}.{name}" for name in ("wi_1", "wi") if inner and f"{inner[1]}.{name}{VECTOR}" in vectors), None)
    if before is None:
        raise UserError(
            f"{key} scales the inputs of {layer}, and those of wo alone are read; merge it with peft's merge_and_unload"
        )
    return before
