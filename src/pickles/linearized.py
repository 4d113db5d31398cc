"""Linearized checkpoints of tangent models (Ortiz-Jimenez et al., 2023), whose parameters have numbers instead of names.

`model.params.7` is the eighth parameter of the fine-tuned image encoder, `model.params0.7` the same parameter of the
model that it is linearized around. The numbers follow the order in which open_clip's CLIP without its text transformer
lists its parameters, so the names follow from the number of blocks.

A file in another order can only be noticed by its effects: every shape is checked, and that the layer norms' weights are
larger than their biases. Parameters of one shape that were exchanged otherwise go unnoticed.
"""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

FINETUNED, REFERENCE, MODEL_NAME = "params", "params0", "model_name"
PARAMETER = re.compile(r"model\.(params0?)\.(\d+)")
Shape = tuple[str | int, ...]  # a string names a size, which is the same wherever it is named

BEFORE_BLOCKS: dict[str, Shape] = {
    "positional_embedding": ("context", "text"),
    "text_projection": ("text", "embed"),
    "logit_scale": (),
    "visual.class_embedding": ("width",),
    "visual.positional_embedding": ("patches", "width"),
    "visual.proj": ("width", "embed"),
    "visual.conv1.weight": ("width", 3, "patch", "patch"),
    "visual.ln_pre.weight": ("width",),
    "visual.ln_pre.bias": ("width",),
}
BLOCK: dict[str, Shape] = {
    "ln_1.weight": ("width",),
    "ln_1.bias": ("width",),
    "attn.in_proj_weight": ("fused", "width"),
    "attn.in_proj_bias": ("fused",),
    "attn.out_proj.weight": ("width", "width"),
    "attn.out_proj.bias": ("width",),
    "ln_2.weight": ("width",),
    "ln_2.bias": ("width",),
    "mlp.c_fc.weight": ("hidden", "width"),
    "mlp.c_fc.bias": ("hidden",),
    "mlp.c_proj.weight": ("width", "hidden"),
    "mlp.c_proj.bias": ("width",),
}
AFTER_BLOCKS: dict[str, Shape] = {
    "visual.ln_post.weight": ("width",),
    "visual.ln_post.bias": ("width",),
    "token_embedding.weight": ("words", "text"),
    "ln_final.weight": ("text",),
    "ln_final.bias": ("text",),
}


def is_linearized(entries: Mapping[str, object]) -> bool:
    """Whether any entry is a numbered parameter."""
    return any(PARAMETER.fullmatch(str(key)) for key in entries)


def named_parameters(entries: Mapping[str, object], model: str) -> dict[str, Tensor]:
    """Return the parameters of one model of a linearized checkpoint, under the names of published state dicts.

    model: FINETUNED or REFERENCE.

    Raise ValueError if they are not the parameters of an image encoder of open_clip.
    """
    by_number: dict[str, dict[int, Tensor]] = {FINETUNED: {}, REFERENCE: {}}
    for key, leaf in entries.items():
        match = PARAMETER.fullmatch(str(key))
        if match and isinstance(leaf, Tensor):
            by_number[match[1]][int(match[2])] = leaf
        elif key != MODEL_NAME:
            raise ValueError(f"{key} is no numbered parameter")
    leaves = by_number[model]
    blocks, rest = divmod(len(leaves) - len(BEFORE_BLOCKS) - len(AFTER_BLOCKS), len(BLOCK))
    if rest or blocks < 1 or set(leaves) != set(range(len(leaves))) or set(leaves) != set(by_number[FINETUNED]):
        raise ValueError(f"{len(leaves)} numbered parameters are not those of an image encoder of open_clip")
    sizes: dict[str, int] = {"fused": 3 * leaves[list(BEFORE_BLOCKS).index("visual.class_embedding")].numel()}
    by_name = {}
    for number, (name, shape) in enumerate(parameter_shapes(blocks)):
        expected = tuple(sizes.setdefault(size, actual) if isinstance(size, str) else size
                         for size, actual in zip(shape, leaves[number].shape))  # fmt: skip
        if len(shape) != leaves[number].ndim or expected != tuple(leaves[number].shape):
            raise ValueError(f"number {number} should be {name} and has shape {tuple(leaves[number].shape)}")
        by_name[name] = leaves[number]
    _check_norms(by_name)
    return by_name


def parameter_shapes(blocks: int) -> Iterator[tuple[str, Shape]]:
    """Yield the name and shape of each parameter of an image encoder with so many blocks, in the order of the numbers."""
    yield from ((f"model.{name}", shape) for name, shape in BEFORE_BLOCKS.items())
    for block in range(blocks):
        yield from ((f"model.visual.transformer.resblocks.{block}.{name}", shape) for name, shape in BLOCK.items())
    yield from ((f"model.{name}", shape) for name, shape in AFTER_BLOCKS.items())


def _check_norms(leaves: Mapping[str, Tensor]) -> None:
    """Raise ValueError if most layer norms' weights look like biases; read no other tensors.

    Weights start at one and biases at zero. Training moves them (the mean of some of CLIP's weights is far below one), so
    a weight is compared with its own bias and not with a constant.
    """
    weights = [name for name in leaves if name.endswith(".weight") and name.split(".")[-2].startswith("ln_")]
    means = ((leaves[name].float().mean(), leaves[name.removesuffix("weight") + "bias"].float().mean()) for name in weights)
    smaller = sum(bool(weight < bias) for weight, bias in means)
    if 2 * smaller > len(weights):
        raise ValueError(f"{smaller} of {len(weights)} norms have weights smaller than biases: they are in another order")
