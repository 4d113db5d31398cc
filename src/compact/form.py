"""Compact storage of several tasks' vectors: one-bit masks over a vector they share, low-rank factors, or codes.

A task's part maps names to tensors: `mask/KEY` holds packed bits that select from the shared vector's KEY, and `scale` a
number that multiplies all that masks select, `left/KEY` and `right/KEY` hold factors whose product is KEY, `entry/KEY` holds
KEY as it is, `offset/KEY` what is added to the shared vector's KEY. What has none is zero. Entries and offsets of a part, and
those of the shared vector, may be stored as codes (see `quantisation.encoded`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from src.compact.packing import masked
from src.compact.quantisation import decoded
from src.elementwise import zeros_view
from src.state_dict import Lazy, StateDict, outline, renamed

MASK, LEFT, RIGHT, ENTRY, OFFSET = "mask/", "left/", "right/", "entry/", "offset/"
SCALE = "scale"


def kind_and_key(name: str) -> tuple[str, str]:
    """Return the kind of an entry of a part, and the name of the parameter that it is of."""
    kind, slash, key = name.partition("/")
    return kind + slash, key


@dataclass(frozen=True)
class Compact:
    """Vectors of several tasks in compact form, rebuilt an entry at a time.

    outline: shapes and dtypes of a vector's entries.
    parts: masks, factors, entries, offsets and scales, or their codes, by task (see the module).
    shared: vector that masks select from, and offsets are added to.
    """

    outline: StateDict
    parts: Mapping[str, StateDict]
    shared: StateDict = field(default_factory=dict)

    @cached_property
    def decoded(self) -> "Compact":
        """The same with numbers in the place of codes, decoded when they are read."""
        numbers = {kind + key: leaf for kind in (ENTRY, OFFSET) for key, leaf in self.outline.items()}
        parts = {task: decoded(part, numbers) for task, part in self.parts.items()}
        return Compact(self.outline, parts, decoded(self.shared, self.outline))

    def vector(self, task: str) -> Lazy:
        """Return the task's vector, rebuilt an entry at a time."""
        part, shared = self.decoded.parts[task], self.decoded.shared
        names = outline(part)

        def entry(key: str) -> Tensor:
            if MASK + key in names:
                selected = masked(shared[key], part[MASK + key])
                return selected.mul_(part[SCALE].item()) if SCALE in names else selected
            if LEFT + key in names:
                return part[LEFT + key] @ part[RIGHT + key]
            if OFFSET + key in names:
                return shared[key] + part[OFFSET + key]
            return part[ENTRY + key] if ENTRY + key in names else zeros_view(self.outline[key], torch.device("cpu"))

        return Lazy(self.outline, entry)

    def masks(self) -> dict[str, StateDict]:
        """Return the packed masks by task and key; {} where the parts are no masks."""
        masks = {task: _masks(part) for task, part in self.parts.items()}
        return masks if any(masks.values()) else {}

    def flattened(self) -> Lazy:
        """Return all parts in one mapping, under `TASK/NAME`."""
        names = {f"{task}/{name}": (task, name) for task, part in self.parts.items() for name in outline(part)}
        shapes = {whole: outline(self.parts[task])[name] for whole, (task, name) in names.items()}
        return Lazy(shapes, lambda whole: self.parts[names[whole][0]][names[whole][1]])


def parts_of(flattened: StateDict, tasks: list[str]) -> dict[str, StateDict]:
    """Return the parts that `Compact.flattened` was made of."""

    def part(task: str) -> Lazy:
        start = f"{task}/"
        shapes = {key.removeprefix(start): leaf for key, leaf in outline(flattened).items() if key.startswith(start)}
        return Lazy(shapes, lambda name: flattened[start + name])

    return {task: part(task) for task in tasks}


def masks_as_parts(masks: Mapping[str, StateDict]) -> dict[str, StateDict]:
    """Return packed masks by task and key as the parts of a `Compact`."""

    return {task: renamed(packed, {MASK + key: key for key in outline(packed)}) for task, packed in masks.items()}


def _masks(part: StateDict) -> Lazy:
    """Return the packed masks of a part by key."""
    return renamed(part, {name.removeprefix(MASK): name for name in outline(part) if name.startswith(MASK)})
