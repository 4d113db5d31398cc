"""Which parameters a method merges as matrices, and where packed attention is cut into the matrices it holds.

The papers differ: by these two choices the same formula gives figures that are points apart.
"""

import re
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from src.errors import UserError, nearest, shorten
from src.merging.engine.inputs import MergeInputs
from src.runtime.patterns import Pattern, PatternError, compile_pattern

PACKED, SPLIT = "packed", "split"
ATTENTION = (PACKED, SPLIT)
# Names of parameters that hold queries, keys and values, (3d, d) one below the other, and (d, 3d) side by side in GPT-2's.
_ROWS = re.compile(r"(?:^|[._])(?:in_proj_weight|(?:qkv|wqkv)(?:_proj)?\.weight)$", re.IGNORECASE)
_COLUMNS = re.compile(r"(?:^|\.)attn\.c_attn\.weight$")
_PARTS = 3
_BLOCK = re.compile(r"(?:^|\.)\d+\.")
_NO_LAYER = re.compile(r"norm|bias|embed", re.IGNORECASE)  # of T5's relative_attention_bias.weight
# What `matrices=` names: whether a two-dimensional parameter counts, by its name.
SELECTIONS: dict[str, Callable[[MergeInputs, str], bool]] = {
    "layers": lambda inputs, key: inputs.is_layer(key),
    "all": lambda inputs, key: "lm_head" not in key,
    "weights": lambda inputs, key: "text_projection" not in key and "embedding" not in key,
    "blocks": lambda inputs, key: is_block_matrix(key),
    "blocks+proj": lambda inputs, key: is_block_matrix(key) or key.endswith("visual.proj"),
}


def check_attention(attention: object) -> None:
    """Raise UserError unless an option says how packed attention is merged."""
    if attention not in ATTENTION:
        raise UserError(f"method.attention is {' or '.join(ATTENTION)}; got {attention}")


def matrix_pattern(matrices: object) -> Pattern | None:
    """Return the regular expression that `matrices` is; None where it is a key of SELECTIONS.

    Raise UserError if it is neither.
    """
    if matrices in list(SELECTIONS):
        return None
    choices = f"method.matrices is one of {', '.join(SELECTIONS)}, or a regular expression of names"
    if not isinstance(matrices, str):
        raise UserError(f"{choices}; got {matrices}")
    if matrices.isalpha() and (near := nearest(matrices, SELECTIONS)):  # a misspelling would match as an expression, too
        raise UserError(f"{choices}; {matrices} is near {near}: give that, or the expression ({matrices})")
    try:
        return compile_pattern(matrices)
    except PatternError as error:
        raise UserError(f"{choices}: {error}") from error


def matrix_names(inputs: MergeInputs, matrices: str) -> list[str]:
    """Return the names of the parameters that count as matrices. Raise UserError if none of those of two dimensions does."""
    found, names = matching(inputs, matrices), [key for key, leaf in inputs.outline.items() if leaf.ndim == 2]
    if names and not found:
        raise UserError(
            f"method.matrices={matrices} is none of these matrices: {shorten(names)}; choose another of "
            f"{', '.join(SELECTIONS)}, or give a regular expression"
        )
    return found


def matching(inputs: MergeInputs, matrices: str) -> list[str]:
    """Return the names of the two-dimensional parameters that an option selects."""
    pattern = matrix_pattern(matrices)
    names = (key for key, leaf in inputs.outline.items() if leaf.ndim == 2)
    return [key for key in names if (pattern.search(key) if pattern else SELECTIONS[matrices](inputs, key))]


def is_block_matrix(key: str) -> bool:
    """Whether a two-dimensional parameter is a layer of a numbered block (of its attention or MLP), by its name."""
    return bool(_BLOCK.search(key)) and not _NO_LAYER.search(".".join(key.split(".")[-2:]))


def packed_names(keys: Iterable[str]) -> list[str]:
    """Return those of some names that are of packed queries, keys and values."""
    return [key for key in keys if _ROWS.search(key) or _COLUMNS.search(key)]


def per_matrix(is_split: bool, key: str, stack: Tensor, merge: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `merge(stack)`, (..., m, n) -> (m, n), of a parameter, or, split, of each of the matrices that are packed in it."""
    parts, dim = unpacked(is_split, key, stack)
    return packed([merge(part) for part in parts], dim)


def unpacked(is_split: bool, key: str, stack: Tensor) -> tuple[list[Tensor], int]:
    """Return a parameter's matrices, (..., m, n), one unless it is to be split, and the dimension along which they lie in it."""
    rows, columns = stack.shape[-2:]
    if is_split and _ROWS.search(key) and rows % _PARTS == 0:
        return list(stack.chunk(_PARTS, -2)), -2
    if is_split and _COLUMNS.search(key) and columns % _PARTS == 0:
        return list(stack.chunk(_PARTS, -1)), -1
    return [stack], -2


def packed(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Return matrices side by side along a dimension, as `unpacked` took them apart."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
