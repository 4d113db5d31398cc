"""Depth of parameters, and which matrices are layers, from parameter names alone (for state dicts of any architecture)."""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable

from src.errors import UserError
from src.runtime.patterns import PatternError, compile_pattern

# `...resblocks.7...`, `...layers.7...`, `encoder.block.7.layer.0...` (sublayers of a block), `...layer.7...`, `h.7...`, and
# `layers.1.blocks.0...`, blocks of a stage.
BLOCK_PATTERN = r"(?:^|\.)(?:resblocks|layers|layer|blocks|block|h)\.(\d+)\.(?:blocks?\.(\d+)\.)?"
STAGES = ("stages", "stage", "layers")  # what is numbered like this before blocks is one stack, one stage after another
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")

Position = tuple[int, ...]  # of a block: its number, or those of its stage and block


def depth_by_name(keys: Iterable[str], pattern: str | None = None) -> Callable[[str], float | None]:
    """Return a function from each of `keys` to its depth: 0 (first block) to 1 (last), None outside blocks.

    The blocks of all stages of a hierarchical backbone are counted as one stack; what else lies in a stage has the depth of
    its first block.

    pattern: a regular expression whose groups are the numbers that order blocks (one, or those of stage and block); what
        stands before the first number tells stacks (encoder and decoder, image and text tower) apart, and each is counted
        on its own.

    Raise UserError if no key matches, if the pattern is not one with a group, or if nothing tells whether numbered parts
    of the model are stages or stand side by side.
    """
    try:
        finder = compile_pattern(BLOCK_PATTERN if pattern is None else pattern)
        matches = {key: finder.search(key) for key in keys}
    except PatternError as error:
        raise UserError(f"method.depth_pattern: {error}") from error
    if not finder.groups:
        raise UserError(f"method.depth_pattern={pattern} has no group for the block number, such as (\\d+)")
    places: dict[str, tuple[str, Position]] = {}
    for key, match in matches.items():
        if match:
            numbers = [number for number in match.groups() if number is not None]
            if not numbers or not all(map(str.isdecimal, numbers)):
                raise UserError(f"method.depth_pattern={pattern} finds {numbers} in {key}, which are no block numbers")
            places[key] = key[: match.start(match.groups().index(numbers[0]) + 1)], tuple(map(int, numbers))
    if not places:
        raise UserError(
            f"LiNeS needs to know how deep a parameter is, and no name matches {pattern or BLOCK_PATTERN}; "
            "give method.depth_pattern= a regular expression whose group is the block number"
        )
    if pattern is None:
        places = _with_stages(matches, places)
    stacks: dict[str, set[Position]] = {}
    for stack, position in places.values():
        stacks.setdefault(stack, set()).add(position)
    orders = {stack: _blocks(positions) for stack, positions in stacks.items()}

    def depth(key: str) -> float | None:
        if key not in places:
            return None
        stack, position = places[key]
        blocks = orders[stack]
        if len(position) == len(blocks[0]) == 1:
            return position[0] / blocks[-1][0] if blocks[-1][0] else 0.0
        return min(bisect_left(blocks, position) / (len(blocks) - 1), 1.0) if len(blocks) > 1 else 0.0

    return depth


def is_layer_by_name(key: str) -> bool:
    """Whether a two-dimensional parameter is a layer's matrix: the papers merge CLIP's text projection as a vector."""
    return key.rpartition(".")[2] != "text_projection"


def _blocks(positions: Iterable[Position]) -> list[Position]:
    """Return the positions of blocks in order, without those of a stage alone."""
    longest = max(map(len, positions))
    return sorted(position for position in positions if len(position) == longest)


def _with_stages(keys: Iterable[str], places: dict[str, tuple[str, Position]]) -> dict[str, tuple[str, Position]]:
    """Return the stack and position of each key, where stacks that differ in the number of their stage are one.

    What lies in a stage outside its blocks has the stage's number for a position.

    Raise UserError if stacks differ in a number that is none of a stage.
    """
    by_template: dict[str, set[str]] = {}
    for stack, _ in places.values():
        by_template.setdefault(_NUMBER.sub("#", stack), set()).add(stack)
    together = {template: stacks for template, stacks in by_template.items() if len(stacks) > 1}
    result = dict(places)
    for template, stacks in together.items():
        before, _, after = template.partition("#.")
        if "#" in after or before.rstrip(".").rpartition(".")[2] not in STAGES:
            one, other, *_ = (stack.rstrip(".") for stack in sorted(stacks))
            raise UserError(
                f"nothing tells whether {one} and {other} number the blocks of one stack or of several side by side; give "
                "method.depth_pattern= a regular expression whose groups are the numbers that order blocks"
            )
        for key in keys:
            stage, dot, _ = key.removeprefix(before).partition(".")
            if key.startswith(before) and dot and stage.isdecimal():
                stack, position = places.get(key, ("", ()))
                if stack in stacks or key not in places:
                    result[key] = template, (int(stage), *position)
    return result
