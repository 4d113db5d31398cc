"""Where a parameter sits in a network nobody described: block numbers read from parameter names."""

import re
from collections.abc import Callable, Iterable

from src.errors import UserError

# `...resblocks.7...`, `...layers.7...`, `encoder.block.7.layer.0...` (the first match counts), `...layer.7...`, `h.7...`
USUAL = r"(?:^|\.)(?:resblocks|layers|layer|blocks|block|h)\.(\d+)\."


def depth_by_name(keys: Iterable[str], pattern: str | None = None) -> Callable[[str], float | None]:
    """The depth of each of `keys`, 0 (first block) to 1 (last), None outside blocks.

    `pattern` is a regular expression whose first group is the block number; what stands before the number tells stacks
    (encoder and decoder, image and text tower) apart, and each is counted on its own.
    Raises UserError if no key matches, or if the pattern is not one with a group.
    """
    try:
        finder = re.compile(pattern or USUAL)
    except re.error as reason:
        raise UserError(f"method.depth_pattern={pattern} is not a regular expression: {reason}") from reason
    if not finder.groups:
        raise UserError(f"method.depth_pattern={pattern} has no group for the block number, such as (\\d+)")
    places: dict[str, tuple[str, int]] = {}
    for key in keys:
        match = finder.search(key)
        if match:
            if not match[1].isdigit():
                raise UserError(f"method.depth_pattern={pattern} finds {match[1]!r} in {key}, which is no block number")
            places[key] = (key[: match.start(1)], int(match[1]))
    if not places:
        raise UserError(
            f"LiNeS needs to know how deep a parameter is, and no name matches {finder.pattern}; "
            "give method.depth_pattern= a regular expression whose group is the block number"
        )
    last: dict[str, int] = {}
    for stack, number in places.values():
        last[stack] = max(last.get(stack, 0), number)

    def depth(key: str) -> float | None:
        if key not in places:
            return None
        stack, number = places[key]
        return number / last[stack] if last[stack] else 0.0

    return depth
