"""Linearized checkpoints of the tangent line (Ortiz-Jimenez et al., 2023), whose parameters have numbers and no names.

`model.params.7` is the eighth parameter of the fine-tuned image encoder, `model.params0.7` the same of the model that it
is linear around. They are numbered as open_clip's CLIP without its text transformer names its own parameters, which
follows from the number of blocks.

Numbers say nothing of what they number, so another order can only be noticed by its effects: shapes are checked, and that
what should be the norms' weights are larger than what should be their biases. Neighbours of one shape that were exchanged
in one place, or norms with one another, would be read as they are numbered.
"""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

FINETUNED, REFERENCE, MODEL_NAME = "params", "params0", "model_name"
NUMBERED = re.compile(r"model\.(params0?)\.(\d+)")
Shape = tuple[str | int, ...]  # a letter is a size: the same letter, the same size

BEFORE: dict[str, Shape] = {
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
AFTER: dict[str, Shape] = {
    "visual.ln_post.weight": ("width",),
    "visual.ln_post.bias": ("width",),
    "token_embedding.weight": ("words", "text"),
    "ln_final.weight": ("text",),
    "ln_final.bias": ("text",),
}


def is_linearized(entries: Mapping[str, object]) -> bool:
    return any(NUMBERED.fullmatch(str(key)) for key in entries)


def named(entries: Mapping[str, object], part: str) -> dict[str, Tensor]:
    """One part of a linearized checkpoint, FINETUNED or REFERENCE, under the names of published state dicts.

    Raises ValueError if these are not the parameters of a CLIP of open_clip.
    """
    numbered: dict[str, dict[int, Tensor]] = {FINETUNED: {}, REFERENCE: {}}
    for key, leaf in entries.items():
        match = NUMBERED.fullmatch(str(key))
        if match and isinstance(leaf, Tensor):
            numbered[match[1]][int(match[2])] = leaf
        elif key != MODEL_NAME:
            raise ValueError(f"{key} is no numbered parameter")
    leaves = numbered[part]
    blocks, rest = divmod(len(leaves) - len(BEFORE) - len(AFTER), len(BLOCK))
    if rest or blocks < 1 or set(leaves) != set(range(len(leaves))) or set(leaves) != set(numbered[FINETUNED]):
        raise ValueError(f"{len(leaves)} numbered parameters are not those of an image encoder of open_clip")
    sizes: dict[str, int] = {"fused": 3 * leaves[list(BEFORE).index("visual.class_embedding")].numel()}
    found = {}
    for number, (name, shape) in enumerate(parameters(blocks)):
        expected = tuple(sizes.setdefault(size, actual) if isinstance(size, str) else size
                         for size, actual in zip(shape, leaves[number].shape))  # fmt: skip
        if len(shape) != leaves[number].ndim or expected != tuple(leaves[number].shape):
            raise ValueError(f"number {number} should be {name} and has shape {tuple(leaves[number].shape)}")
        found[name] = leaves[number]
    _check_norms(found)
    return found


def _check_norms(found: Mapping[str, Tensor]) -> None:
    """Raise ValueError if most norms' weights look like biases; these few small tensors are all that is read.

    Weights start at one and biases at zero. Trained ones move, so that a weight is compared with its own bias and not with
    numbers: the mean of some of CLIP's weights is far below one.
    """
    weights = [name for name in found if name.endswith(".weight") and name.split(".")[-2].startswith("ln_")]
    means = ((found[name].float().mean(), found[name.removesuffix("weight") + "bias"].float().mean()) for name in weights)
    exchanged = sum(bool(weight < bias) for weight, bias in means)
    if 2 * exchanged > len(weights):
        raise ValueError(f"{exchanged} of {len(weights)} norms have weights smaller than biases: they are in another order")


def parameters(blocks: int) -> Iterator[tuple[str, Shape]]:
    """Names and shapes in the order they are numbered in, of an image tower of so many blocks."""
    yield from ((f"model.{name}", shape) for name, shape in BEFORE.items())
    for block in range(blocks):
        yield from ((f"model.visual.transformer.resblocks.{block}.{name}", shape) for name, shape in BLOCK.items())
    yield from ((f"model.{name}", shape) for name, shape in AFTER.items())
