"""CLIP checkpoints under the names of transformers, as FusionBench publishes its models, converted to open_clip's and back.

Both hold the same numbers: transformers keeps query, key and value apart where open_clip stacks them, and projections
transposed. Entries are converted when they are asked for, so that a file stays on disk until then.
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
SIGNATURE = "pre_layrnorm.weight"  # a misspelling of transformers' that no other model shares

RENAMED = {
    "visual.class_embedding": "embeddings.class_embedding",
    "visual.positional_embedding": "embeddings.position_embedding.weight",
    "visual.conv1.weight": "embeddings.patch_embedding.weight",
    **{f"visual.ln_pre.{part}": f"pre_layrnorm.{part}" for part in ("weight", "bias")},
    **{f"visual.ln_post.{part}": f"post_layernorm.{part}" for part in ("weight", "bias")},
}
RENAMED_IN_BLOCK = {
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
PROJECTIONS = tuple(TRANSPOSED.values())
TEXT = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    **{f"ln_final.{part}": f"text_model.final_layer_norm.{part}" for part in ("weight", "bias")},
}
OPTIONAL = {PREFIX + key for key in (*TEXT, *TRANSPOSED)}  # what vision-only files lack
UNUSED = re.compile(r"(vision_model\.|text_model\.)?embeddings\.position_ids|text_model\.encoder\..+|classifier\..+")


class _Conversion(NamedTuple):
    """How one entry of open_clip's is made of entries of transformers', and taken apart into them again.

    sources: the names of transformers' entries.
    join: makes ours of them.
    split: makes them of ours, in the order of `sources`.
    """

    sources: Sequence[str]
    join: Callable[[Sequence[Tensor]], Tensor]
    split: Callable[[Tensor], Sequence[Tensor]]


def is_hf(state: StateDict) -> bool:
    """Whether a checkpoint has transformers' names of a CLIP, with or without its text part and projections."""
    return hf_prefix(state) is not None


def hf_prefix(state: StateDict) -> str | None:
    """Return the prefix before transformers' names of a CLIP, as modules around it add; None if it has no such names."""
    signed = next((key for key in state if key == SIGNATURE or key.endswith(f".{SIGNATURE}")), None)
    return None if signed is None else signed.removesuffix(SIGNATURE).removesuffix(TOWER)


def from_hf(state: StateDict, like: StateDict) -> Lazy:
    """Return a checkpoint of transformers' under our names (`model.visual...`), lazily.

    like: the pre-trained model. It fills in what the file lacks: the text part of a vision-only one, and the projection of
        one without.

    Raise UserError if the file is of another architecture.
    """
    theirs, shapes = outline(state), outline(like)
    conversions = {key: _conversion(key, state) for key in shapes}
    possible = {key: each for key, each in conversions.items() if each and all(name in theirs for name in each.sources)}
    sources = {name for conversion in possible.values() for name in conversion.sources}
    problems = [f"it lacks {' and '.join(conversion.sources)}" for key, conversion in conversions.items()
                if conversion and key not in possible and key not in OPTIONAL]  # fmt: skip
    problems += [
        f"it has {name}, which this model has not" for name in theirs if name not in sources and not UNUSED.fullmatch(name)
    ]
    leaves = {}
    for key, conversion in possible.items():
        parts = [torch.empty(theirs[name].shape, dtype=theirs[name].dtype, device="meta") for name in conversion.sources]
        try:
            leaves[key] = conversion.join(parts)
        except RuntimeError:  # they have too many dimensions, or ones that cannot be stacked
            leaves[key] = parts[0]
        if leaves[key].shape != shapes[key].shape:
            problems.append(
                f"{conversion.sources[0]} has shape {tuple(parts[0].shape)}, which does not make {tuple(shapes[key].shape)}"
            )
    if problems:
        raise UserError(
            f"this checkpoint of transformers does not fit the model: {'; '.join(problems[:3])} ({len(problems)} in all)"
        )

    def entry(key: str) -> Tensor:
        return possible[key].join([state[name] for name in possible[key].sources]) if key in possible else like[key]

    return Lazy({key: leaves.get(key, leaf) for key, leaf in shapes.items()}, entry)


def to_hf(state: StateDict, like: StateDict) -> Lazy:
    """Return a checkpoint of ours under transformers' names, lazily.

    like: a checkpoint of transformers', whose names are used. It fills in what ours lacks (the text encoder).

    Raise UserError if the two are of other architectures.
    """
    theirs, ours = outline(like), outline(state)
    conversions = {key: conversion for key in ours if (conversion := _conversion(key, like))}
    source_of = {name: (key, part) for key, conversion in conversions.items() for part, name in enumerate(conversion.sources)}
    problems = [f"ours lacks {name}" for name in theirs if name not in source_of and not UNUSED.fullmatch(name)]
    problems += [f"it lacks {name}" for name, (key, _) in source_of.items() if name not in theirs and key not in OPTIONAL]

    def entry(name: str) -> Tensor:
        if name not in source_of:
            return like[name]
        key, part = source_of[name]
        return conversions[key].split(state[key])[part]

    leaves = {}
    for name, leaf in theirs.items():
        key, part = source_of.get(name, (None, 0))
        leaves[name] = leaf if key is None else conversions[key].split(ours[key].to("meta"))[part]
        if leaves[name].shape != leaf.shape:
            problems.append(f"{key} makes {tuple(leaves[name].shape)} of {name}, which has shape {tuple(leaf.shape)}")
    if problems:
        raise UserError(f"this model does not fit the one of transformers: {'; '.join(problems[:3])} ({len(problems)} in all)")
    return Lazy(leaves, entry)


def _conversion(key: str, theirs: StateDict) -> _Conversion | None:
    """Return the conversion of one of our entries; None if transformers has no such entry."""
    name = key.removeprefix(PREFIX)
    tower = TOWER if TOWER + SIGNATURE in theirs else ""
    block = BLOCK.fullmatch(name)
    layer = f"{tower}encoder.layers.{block[1]}." if block else ""
    if name in RENAMED:
        return _rename(tower + RENAMED[name])
    if name in TEXT:
        return _rename(TEXT[name])
    if name in TRANSPOSED:
        return _Conversion([TRANSPOSED[name]], lambda parts: parts[0].t(), lambda leaf: [leaf.t()])
    if block and block[2] in RENAMED_IN_BLOCK:
        return _rename(layer + RENAMED_IN_BLOCK[block[2]])
    if block and block[2] in STACKED:
        return _Conversion([layer + part for part in STACKED[block[2]]], torch.cat, lambda leaf: leaf.chunk(3))
    return None


def _rename(name: str) -> _Conversion:
    return _Conversion([name], lambda parts: parts[0], lambda leaf: [leaf])
