"""Arithmetic on state dicts: mappings from names to tensors go in, new ones come out, nothing is edited.

A mapping may be lazy (`Lazy`, or a checkpoint on disk): its entries are made when they are asked for, so an
expression over twenty checkpoints costs the memory of the entries looked at, one at a time.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import xxhash
from torch import Tensor

from src.errors import UserError

StateDict = Mapping[str, Tensor]


class Lazy(Mapping[str, Tensor]):
    """Entries computed by `make(key)` when asked for, every time anew.

    `outline` maps each key to a tensor of the right shape and dtype whose values do not matter (a `meta` tensor).
    """

    def __init__(self, outline: StateDict, make: Callable[[str], Tensor]):
        self.outline = outline
        self._make = make

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.outline:
            raise KeyError(key)
        return self._make(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.outline)

    def __len__(self) -> int:
        return len(self.outline)

    def __contains__(self, key: object) -> bool:
        return key in self.outline


class Kept(Lazy):
    """As `Lazy`, but an entry that was made is kept for the next time."""

    def __init__(self, outline: StateDict, make: Callable[[str], Tensor]):
        super().__init__(outline, make)
        self._kept: dict[str, Tensor] = {}

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._kept:
            self._kept[key] = super().__getitem__(key)
        return self._kept[key]


def outline(tree: StateDict) -> StateDict:
    """Tensors with the shapes and dtypes of `tree`, without computing or reading any entry."""
    return getattr(tree, "outline", tree)


def floating(tree: StateDict) -> list[str]:
    """The names of the floating-point entries, in the order of `tree`."""
    return [key for key, leaf in outline(tree).items() if leaf.is_floating_point()]


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype arithmetic is done in: float64 for float64, float32 for every narrower floating type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def moves_of(model: StateDict) -> dict[str, Tensor]:
    """Meta tensors with the shapes and dtypes of a task vector of `model`: its floating entries, in working dtypes."""
    shapes = outline(model)
    return {key: torch.empty(shapes[key].shape, dtype=working_dtype(shapes[key].dtype), device="meta") for key in floating(model)}


def differences(name: str, tree: StateDict, other_name: str, other: StateDict) -> list[str]:
    """What keeps two state dicts from being combined entry by entry, a sentence each: keys and shapes."""
    ours, theirs = outline(tree), outline(other)
    found = []
    for (have, here), (lack, there) in (((name, ours), (other_name, theirs)), ((other_name, theirs), (name, ours))):
        missing = [key for key in here if key not in there]
        if missing:
            found.append(f"{lack} lacks {_listed(missing)}, which {have} has")
    return found + [
        f"{key} has shape {tuple(leaf.shape)} in {name} and {tuple(theirs[key].shape)} in {other_name}"
        for key, leaf in ours.items()
        if key in theirs and theirs[key].shape != leaf.shape
    ]


def model_differences(name: str, tree: StateDict, other_name: str, other: StateDict) -> list[str]:
    """As `differences`, for two copies of one model, where what is floating in one is floating in the other."""
    ours, theirs = outline(tree), outline(other)
    return differences(name, tree, other_name, other) + [
        f"{key} is {leaf.dtype} in {name} and {theirs[key].dtype} in {other_name}"
        for key, leaf in ours.items()
        if key in theirs and theirs[key].is_floating_point() != leaf.is_floating_point()
    ]


def zip_with(combine: Callable[..., Tensor], *trees: StateDict) -> Lazy:
    """`combine` applied entry by entry to trees of equal keys and shapes, lazily, in the order of the first.

    `combine` keeps shapes; it may change dtypes. Raises ValueError naming the keys that differ.
    """
    first, *others = trees
    for number, other in enumerate(others, start=2):
        found = differences("the first", first, f"number {number}", other)
        if found:
            raise ValueError("state dicts do not match: " + "; ".join(found))
    outlines = [outline(tree) for tree in trees]

    def leaf(key: str) -> Tensor:
        dtype = combine(*(torch.ones((), dtype=part[key].dtype) for part in outlines)).dtype
        return torch.empty(outlines[0][key].shape, dtype=dtype, device="meta")

    return Lazy(Kept(outlines[0], leaf), lambda key: combine(*(tree[key] for tree in trees)))


def blank(like: Tensor, device: torch.device) -> Tensor:
    """Zeros of the shape and dtype of `like` that take no memory: one zero, seen from everywhere."""
    return torch.zeros((), dtype=like.dtype, device=device).expand(like.shape)


def is_blank(leaf: Tensor) -> bool:
    """Whether a tensor is one `blank` made, by its form alone where it cannot be."""
    return leaf.ndim > 0 and leaf.numel() > 1 and not any(leaf.stride()) and not leaf[(0,) * leaf.ndim]


def added(pretrained: StateDict, vector: StateDict, scale: float = 1.0) -> Lazy:
    """`pretrained + scale * vector`, lazily, in the dtypes of `pretrained`; entries without a vector are its own.

    Raises UserError if the vector has names or shapes that `pretrained` has not, or an entry overflows its dtype.
    """
    shapes, moves = outline(pretrained), outline(vector)
    strange = [key for key in moves if key not in shapes or shapes[key].shape != moves[key].shape]
    if strange:
        raise UserError(f"the vector does not fit these weights: {', '.join(strange[:3])} ({len(strange)} in all)")

    def entry(key: str) -> Tensor:
        before = pretrained[key]
        if key not in moves:
            return before
        move = vector[key]
        if is_blank(move):
            return before
        total = torch.empty(before.shape, dtype=before.dtype, device=move.device)
        parts = (leaf.reshape(-1).split(2**20) for leaf in (total, before, move))  # wide copies of a part at a time
        for out, base, step in zip(*parts):
            out.copy_(torch.add(base.to(device=move.device, dtype=move.dtype), step, alpha=scale))
            spoiled = not math.isfinite(out.sum(dtype=move.dtype).item()) and not torch.isfinite(out).all()
            if spoiled and torch.isfinite(base).all():
                raise UserError(f"the merged {key} overflows {before.dtype}; lower the coefficient, or use a wider dtype")
        return total

    return Lazy(shapes, entry)


def digest(entries: Iterable[tuple[str, Tensor]]) -> str:
    """A fingerprint (128-bit xxh3, hex) of names, dtypes, shapes and values, whatever file or order they come in."""
    parts = []
    for key, leaf in entries:
        values = leaf.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
        parts.append(f"{key} {leaf.dtype} {tuple(leaf.shape)} {xxhash.xxh3_128_hexdigest(values)}")
    return xxhash.xxh3_128_hexdigest("\n".join(sorted(parts)).encode())


def _listed(keys: list[str], most: int = 3) -> str:
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest
