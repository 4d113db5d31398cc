"""CLIP checkpoints with the names of transformers, as FusionBench publishes its models, to those of open_clip and back.

Both hold the same numbers: transformers keeps query, key and value apart where open_clip stacks them, and projections
transposed. Entries are made when they are asked for, so that a file stays on disk until then.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from src.errors import UserError
from src.state_dict import Lazy, StateDict, outline

PREFIX, TOWER = "model.", "vision_model."
BLOCK = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.(.+)")
SIGN = "pre_layrnorm.weight"  # a slip of transformers' that no other model shares

ALIKE = {
    "visual.class_embedding": "embeddings.class_embedding",
    "visual.positional_embedding": "embeddings.position_embedding.weight",
    "visual.conv1.weight": "embeddings.patch_embedding.weight",
    **{f"visual.ln_pre.{part}": f"pre_layrnorm.{part}" for part in ("weight", "bias")},
    **{f"visual.ln_post.{part}": f"post_layernorm.{part}" for part in ("weight", "bias")},
}
ALIKE_IN_BLOCK = {
    f"{ours}.{part}": f"{theirs}.{part}"
    for ours, theirs in {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }.items()
    for part in ("weight", "bias")
}
STACKED = {f"attn.in_proj_{part}": [f"self_attn.{name}_proj.{part}" for name in "qkv"] for part in ("weight", "bias")}
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
TEXT = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    **{f"ln_final.{part}": f"text_model.final_layer_norm.{part}" for part in ("weight", "bias")},
}
OPTIONAL = {PREFIX + key for key in (*TEXT, *TRANSPOSED)}  # what vision-only files lack
UNUSED = re.compile(r"(vision_model\.|text_model\.)?embeddings\.position_ids|text_model\.encoder\..+")


class _Source(NamedTuple):
    """Which entries of transformers' one of ours is made of, how, and how ours is taken apart into them again."""

    keys: Sequence[str]
    make: Callable[[Sequence[Tensor]], Tensor]
    split: Callable[[Tensor], Sequence[Tensor]]


def is_hf(state: StateDict) -> bool:
    """Whether a checkpoint has transformers' names of a CLIP, with or without its text part and projections."""
    return TOWER + SIGN in state or SIGN in state


def from_hf(state: StateDict, like: StateDict) -> Lazy:
    """A checkpoint of transformers' under our names (`model.visual...`), lazily.

    like: the pre-trained model; what the file lacks (of a vision-only one the text part, and of one without projection
    that too) is taken from it. Raises UserError if the file is of another architecture.
    """
    theirs, shapes = outline(state), outline(like)
    sources = {key: _source(key, state) for key in shapes}
    found = {key: source for key, source in sources.items() if source and all(name in theirs for name in source.keys)}
    used = {name for source in found.values() for name in source.keys}
    problems = [f"it lacks {' and '.join(source.keys)}" for key, source in sources.items()
                if source and key not in found and key not in OPTIONAL]  # fmt: skip
    problems += [f"it has {name}, which this model has not" for name in theirs if name not in used and not UNUSED.fullmatch(name)]
    made = {}
    for key, source in found.items():
        parts = [torch.empty(theirs[name].shape, dtype=theirs[name].dtype, device="meta") for name in source.keys]
        try:
            made[key] = source.make(parts)
        except RuntimeError:  # they have too many dimensions, or ones that cannot be stacked
            made[key] = parts[0]
        if made[key].shape != shapes[key].shape:
            problems.append(f"{source.keys[0]} has shape {tuple(parts[0].shape)}, which does not make {tuple(shapes[key].shape)}")
    if problems:
        raise UserError(
            f"this checkpoint of transformers does not fit the model: {'; '.join(problems[:3])} ({len(problems)} in all)"
        )

    def entry(key: str) -> Tensor:
        return found[key].make([state[name] for name in found[key].keys]) if key in found else like[key]

    return Lazy({key: made.get(key, leaf) for key, leaf in shapes.items()}, entry)


def to_hf(state: StateDict, like: StateDict) -> Lazy:
    """A checkpoint of ours under transformers' names, lazily.

    like: a checkpoint of transformers', whose names are made; what ours lacks (the text encoder) is taken from it.
    Raises UserError if the two are of other architectures.
    """
    theirs, ours = outline(like), outline(state)
    sources = {key: source for key in ours if (source := _source(key, like))}
    where = {name: (key, part) for key, source in sources.items() for part, name in enumerate(source.keys)}
    problems = [f"ours lacks {name}" for name in theirs if name not in where and not UNUSED.fullmatch(name)]
    problems += [f"it lacks {name}" for name, (key, _) in where.items() if name not in theirs and key not in OPTIONAL]

    def entry(name: str) -> Tensor:
        if name not in where:
            return like[name]
        key, part = where[name]
        return sources[key].split(state[key])[part]

    made = {}
    for name, leaf in theirs.items():
        key, part = where.get(name, (None, 0))
        made[name] = leaf if key is None else sources[key].split(ours[key].to("meta"))[part]
        if made[name].shape != leaf.shape:
            problems.append(f"{key} makes {tuple(made[name].shape)} of {name}, which has shape {tuple(leaf.shape)}")
    if problems:
        raise UserError(f"this model does not fit the one of transformers: {'; '.join(problems[:3])} ({len(problems)} in all)")
    return Lazy(made, entry)


def _source(key: str, theirs: StateDict) -> _Source | None:
    """What one of our entries is made of; None if transformers has no such entry."""
    name = key.removeprefix(PREFIX)
    tower = TOWER if TOWER + SIGN in theirs else ""
    block = BLOCK.fullmatch(name)
    within = f"{tower}encoder.layers.{block[1]}." if block else ""
    if name in ALIKE:
        return _same(tower + ALIKE[name])
    if name in TEXT:
        return _same(TEXT[name])
    if name in TRANSPOSED:
        return _Source([TRANSPOSED[name]], lambda parts: parts[0].t(), lambda leaf: [leaf.t()])
    if block and block[2] in ALIKE_IN_BLOCK:
        return _same(within + ALIKE_IN_BLOCK[block[2]])
    if block and block[2] in STACKED:
        return _Source([within + part for part in STACKED[block[2]]], torch.cat, lambda leaf: leaf.chunk(3))
    return None


def _same(name: str) -> _Source:
    return _Source([name], lambda parts: parts[0], lambda leaf: [leaf])
