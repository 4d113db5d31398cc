"""Arithmetic on state dicts: mappings from names to tensors go in, new ones come out, nothing is edited.

A mapping may be lazy (`Lazy`, or a checkpoint on disk): its entries are made when they are asked for, so an
expression over twenty checkpoints costs the memory of the entries looked at, one at a time.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import xxhash
from torch import Tensor

from src.errors import UserError, shorten

StateDict = Mapping[str, Tensor]
CHUNK = 2**20  # entries added at a time: what is computed in a wider dtype never takes more than this


class Lazy(Mapping[str, Tensor]):
    """Entries computed by `make(key)` when asked for, every time anew.

    outline: maps each key to a tensor of the right shape and dtype whose values do not matter (a `meta` tensor).
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


class Memoized(Lazy):
    """As `Lazy`, but an entry is computed once and kept."""

    def __init__(self, outline: StateDict, make: Callable[[str], Tensor]):
        super().__init__(outline, make)
        self._entries: dict[str, Tensor] = {}

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._entries:
            self._entries[key] = super().__getitem__(key)
        return self._entries[key]


def outline(tree: StateDict) -> StateDict:
    """Return tensors with the shapes and dtypes of `tree`, without computing or reading any entry."""
    return getattr(tree, "outline", tree)


def floating(tree: StateDict) -> list[str]:
    """Return the names of the floating-point entries, in the order of `tree`."""
    return [key for key, leaf in outline(tree).items() if leaf.is_floating_point()]


def byte_size(tree: StateDict) -> int:
    """Return the bytes of all entries."""
    return sum(leaf.numel() * leaf.element_size() for leaf in outline(tree).values())


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that arithmetic is done in: float64 for float64, float32 for every narrower floating type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def vector_outline(model: StateDict) -> dict[str, Tensor]:
    """Return meta tensors with the shapes and dtypes of a task vector: the floating entries, in working dtypes."""
    shapes = outline(model)
    return {key: torch.empty(shapes[key].shape, dtype=working_dtype(shapes[key].dtype), device="meta") for key in floating(model)}


def differences(name: str, tree: StateDict, other_name: str, other: StateDict) -> list[str]:
    """Return what keeps two state dicts from being combined entry by entry, a sentence each: keys and shapes."""
    ours, theirs = outline(tree), outline(other)
    problems = []
    for (has, here), (lacks, there) in (((name, ours), (other_name, theirs)), ((other_name, theirs), (name, ours))):
        missing = [key for key in here if key not in there]
        if missing:
            problems.append(f"{lacks} lacks {shorten(missing)}, which {has} has")
    return problems + [
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
    """Return `combine` of every entry of trees with equal keys and shapes, lazily, in the order of the first.

    combine: an elementwise function; it may change dtypes.

    Raise ValueError naming the keys that differ.
    """
    first, *others = trees
    for number, other in enumerate(others, start=2):
        problems = differences("the first", first, f"number {number}", other)
        if problems:
            raise ValueError("state dicts do not match: " + "; ".join(problems))
    outlines = [outline(tree) for tree in trees]

    def leaf(key: str) -> Tensor:
        dtype = combine(*(torch.ones((), dtype=part[key].dtype) for part in outlines)).dtype
        return torch.empty(outlines[0][key].shape, dtype=dtype, device="meta")

    return Lazy(Memoized(outlines[0], leaf), lambda key: elementwise(combine, *(tree[key] for tree in trees)))


def elementwise(combine: Callable[..., Tensor], *leaves: Tensor) -> Tensor:
    """Return `combine(*leaves)` of tensors of one shape; of tensors that are one number each, another such view.

    So what no task changed (see `zeros_view`) takes no memory however vectors are added and scaled.
    """
    if all(map(_is_constant, leaves)):
        return combine(*(leaf[(0,) * leaf.ndim] for leaf in leaves)).expand(leaves[0].shape)
    return combine(*leaves)


def zeros_view(like: Tensor, device: torch.device) -> Tensor:
    """Return zeros of the shape and dtype of `like` that take no memory: one zero, seen from everywhere."""
    return torch.zeros((), dtype=like.dtype, device=device).expand(like.shape)


def is_zeros_view(leaf: Tensor) -> bool:
    """Whether a tensor is a `zeros_view`; one that holds zeros is none."""
    return _is_constant(leaf) and not leaf[(0,) * leaf.ndim]


def _is_constant(leaf: Tensor) -> bool:
    """Whether a tensor of several entries is one number seen from everywhere."""
    return leaf.numel() > 1 and not any(leaf.stride())


def add_vector(pretrained: StateDict, vector: StateDict, scale: float = 1.0) -> Lazy:
    """Return `pretrained + scale * vector`, lazily, in the dtypes of `pretrained`.

    Entries that the vector lacks, or does not change (`zeros_view`), are those of `pretrained` themselves.

    Raise UserError if the vector has names or shapes that `pretrained` has not, or an entry overflows its dtype.
    """
    shapes, changes = outline(pretrained), outline(vector)
    misfits = [key for key in changes if key not in shapes or shapes[key].shape != changes[key].shape]
    if misfits:
        raise UserError(f"the vector does not fit these weights: {', '.join(misfits[:3])} ({len(misfits)} in all)")

    def entry(key: str) -> Tensor:
        base = pretrained[key]
        if key not in changes:
            return base
        change = vector[key]
        if is_zeros_view(change):
            return base
        total = torch.empty(base.shape, dtype=base.dtype, device=change.device)
        for out, start, step in zip(*(leaf.reshape(-1).split(CHUNK) for leaf in (total, base, change))):
            wide = start.to(device=step.device, dtype=step.dtype)
            if out.dtype == step.dtype:
                torch.add(wide, step, alpha=scale, out=out)
            else:
                out.copy_(torch.add(wide, step, alpha=scale))
            overflows = not math.isfinite(out.sum(dtype=step.dtype).item()) and not torch.isfinite(out).all()
            if overflows and torch.isfinite(start).all():
                raise UserError(f"the merged {key} overflows {base.dtype}; lower the coefficient, or use a wider dtype")
        return total

    return Lazy(shapes, entry)


def digest(entries: Iterable[tuple[str, Tensor]]) -> str:
    """Return a fingerprint (128-bit xxh3, hex) of names, dtypes, shapes and values, whatever file or order they come in."""
    return combined_digest(entry_digest(key, leaf) for key, leaf in entries)


def entry_digest(key: str, leaf: Tensor) -> str:
    """Return what `digest` takes of one entry."""
    values = leaf.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
    return f"{key} {leaf.dtype} {tuple(leaf.shape)} {xxhash.xxh3_128_hexdigest(values)}"


def combined_digest(entries: Iterable[str]) -> str:
    """Return the `digest` of a state dict whose entries have these digests."""
    return xxhash.xxh3_128_hexdigest("\n".join(sorted(entries)).encode())
