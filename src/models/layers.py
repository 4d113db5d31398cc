"""Depth of parameters, and which matrices are layers, from parameter names alone (for state dicts of any architecture)."""

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable

from src.errors import UserError, shorten
from src.runtime.patterns import PatternError, compile_pattern

# `...resblocks.7...`, `...layers.7...`, `encoder.block.7.layer.0...` (sublayers of a block), `...layer.7...`, `h.7...`, and
# `layers.1.blocks.0...`, blocks of a stage.
BLOCK_PATTERN = r"(?:^|\.)(?:resblocks|layers|layer|blocks|block|h)\.(\d+)\.(?:(?:(?:blocks?|layers)\.)?(\d+)\.)?"
STAGE = re.compile(r"(?:^|\.)(?:stages|stage|layers)\.$")  # what is numbered so before blocks is one stack, stage after stage
_NUMBER = re.compile(r"\d+")

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
            f"LiNeS scales by block, and no name is like {pattern or 'block.N. or layers.N.'} (names are {shorten(matches)}); "
            "say where the block number is: \"method.depth_pattern='stage(\\d+)\\.'\""
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
    result = dict(places)
    for template, stacks in by_template.items():
        if len(stacks) == 1:
            continue
        one, other, *_ = sorted(stacks)
        before = _before_stage(stacks)
        if before is None:
            raise UserError(
                f"nothing tells whether {one.rstrip('.')} and {other.rstrip('.')} number the blocks of one stack or of several "
                "side by side; give a pattern with both numbers in groups, "
                "\"method.depth_pattern='STAGE(\\d+)\\.blocks\\.(\\d+)'\", or, "
                "for several, with the last alone: \"method.depth_pattern='blocks\\.(\\d+)'\""
            )
        for key in keys:
            stage, dot, _ = key.removeprefix(before).partition(".")
            if key.startswith(before) and dot and stage.isdecimal():
                stack, position = places.get(key, ("", ()))
                if stack in stacks or key not in places:
                    result[key] = template, (int(stage), *position)
    return result


def _before_stage(stacks: Collection[str]) -> str | None:
    """Return what stands before the number in which stacks differ; None unless it is one, of a stage."""
    numbers = [[(match.start(), match[0]) for match in _NUMBER.finditer(stack)] for stack in stacks]
    differing = [place for place in zip(*numbers) if len({number for _, number in place}) > 1]
    starts = {stack[:start] for stack, (start, _) in zip(stacks, differing[0])}
    before = min(starts)
    is_whole = all(stack.startswith(f"{before}{number}.") for stack, (_, number) in zip(stacks, differing[0]))
    return before if len(differing) == len(starts) == 1 and is_whole and STAGE.search(before) else None
