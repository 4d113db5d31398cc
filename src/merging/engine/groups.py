"""Groups of small parameters that are worked on as one slice, so that thousands of them cost hardly more than their bytes.

Parameters that lie side by side in every model's memory, as those of a file do, are one run, and are read as one tensor.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Run:
    """Parameters side by side in every model: `size` numbers from those of `key` on; `start` is the place in the group."""

    key: str
    start: int
    size: int


@dataclass
class Group:
    """Consecutive parameters of one dtype.

    starts: the place in the group of each parameter's first number.
    size: of numbers.
    """

    dtype: torch.dtype
    starts: dict[str, int]
    runs: list[Run]
    size: int

    @classmethod
    def of(cls, key: str, leaf: Tensor) -> "Group":
        """Return the group of one parameter."""
        return cls(leaf.dtype, {key: 0}, [Run(key, 0, leaf.numel())], leaf.numel())

    @property
    def keys(self) -> list[str]:
        """The names of the parameters, in order."""
        return list(self.starts)


def groups_of(
    leaves: Iterable[tuple[str, Tensor]], limit: Callable[[torch.dtype], int], entries: Callable[[str], Sequence[Tensor]]
) -> list[Group]:
    """Return consecutive parameters in as few groups as their dtypes and a limit allow; larger ones stand alone.

    leaves: names, and tensors of the right shape and dtype.
    limit: returns the numbers that a group of a dtype holds at most.
    entries: returns a parameter of every model, flat.
    """
    groups: list[Group] = []
    last: Sequence[Tensor] = []
    for key, leaf in leaves:
        size = leaf.numel()
        if not groups or groups[-1].dtype != leaf.dtype or groups[-1].size + size > limit(leaf.dtype):
            groups.append(Group(leaf.dtype, {}, [], 0))
            last = []
        group = groups[-1]
        this = entries(key) if size <= limit(leaf.dtype) else []  # which are computed, in some models
        group.starts[key] = group.size
        if last and all(map(_is_followed_by, last, this)):
            group.runs[-1].size += size
        else:
            group.runs.append(Run(key, group.size, size))
        group.size += size
        last = this
    return groups


def extended(flat: Tensor, size: int) -> Tensor:
    """Return the `size` numbers in the memory of a flat tensor that begin with its own."""
    return flat if len(flat) == size else flat.as_strided((size,), (1,))


def _is_followed_by(before: Tensor, after: Tensor) -> bool:
    """Whether two flat tensors lie side by side in one storage."""
    return (
        before.dtype == after.dtype
        and before.stride() == after.stride() == (1,)
        and before.storage_offset() + len(before) == after.storage_offset()
        and before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr()
    )
