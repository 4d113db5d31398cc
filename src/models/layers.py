"""Depth of parameters, and which matrices are layers, from parameter names alone (for state dicts of any architecture)."""

import re
from collections.abc import Callable, Iterable

from src.errors import UserError

# `...resblocks.7...`, `...layers.7...`, `encoder.block.7.layer.0...` (the first match counts), `...layer.7...`, `h.7...`
BLOCK_PATTERN = r"(?:^|\.)(?:resblocks|layers|layer|blocks|block|h)\.(\d+)\."


def depth_by_name(keys: Iterable[str], pattern: str | None = None) -> Callable[[str], float | None]:
    """Return a function from each of `keys` to its depth: 0 (first block) to 1 (last), None outside blocks.

    pattern: a regular expression whose first group is the block number; what stands before the number tells stacks
        (encoder and decoder, image and text tower) apart, and each is counted on its own.

    Raise UserError if no key matches, or if the pattern is not one with a group.
    """
    try:
        finder = re.compile(pattern or BLOCK_PATTERN)
    except re.error as error:
        raise UserError(f"method.depth_pattern={pattern} is not a regular expression: {error}") from error
    if not finder.groups:
        raise UserError(f"method.depth_pattern={pattern} has no group for the block number, such as (\\d+)")
    blocks: dict[str, tuple[str, int]] = {}
    for key in keys:
        match = finder.search(key)
        if match:
            if not match[1].isdigit():
                raise UserError(f"method.depth_pattern={pattern} finds {match[1]!r} in {key}, which is no block number")
            blocks[key] = (key[: match.start(1)], int(match[1]))
    if not blocks:
        raise UserError(
            f"LiNeS needs to know how deep a parameter is, and no name matches {finder.pattern}; "
            "give method.depth_pattern= a regular expression whose group is the block number"
        )
    last: dict[str, int] = {}
    for stack, number in blocks.values():
        last[stack] = max(last.get(stack, 0), number)

    def depth(key: str) -> float | None:
        if key not in blocks:
            return None
        stack, number = blocks[key]
        return number / last[stack] if last[stack] else 0.0

    return depth


def is_layer_by_name(key: str) -> bool:
    """Whether a two-dimensional parameter is a layer's matrix: the papers merge CLIP's text projection as a vector."""
    return key.rpartition(".")[2] != "text_projection"
