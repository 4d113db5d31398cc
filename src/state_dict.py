"""State dicts: mappings from names to tensors, which may be lazy, their outlines, what keeps two apart, and digests.

The entries of a lazy one (`Lazy`, or a checkpoint on disk) are made when they are asked for, so that an expression over
twenty checkpoints costs the memory of the entries that are read, one at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import xxhash
from torch import Tensor

from src.errors import plural, shorten

StateDict = Mapping[str, Tensor]
CHUNK = 2**18  # entries that are widened at a time


class Computed(Mapping[str, Tensor]):
    """A state dict whose entries are computed by `_make(key)`, anew each time one is read.

    outline: maps each key to a tensor of the right shape and dtype whose values do not matter (a `meta` tensor).
    """

    _make: Callable[[str], Tensor]

    def __init__(self, outline: StateDict):
        self.outline = outline

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

    def __repr__(self) -> str:
        names = shorten([f"{key} {tuple(leaf.shape)}" for key, leaf in self.outline.items()])
        return f"<{type(self).__name__}: {plural(len(self), 'entry')} ({names})>"


class Lazy(Computed):
    """A state dict whose entries are computed by `make(key)`, anew each time one is read."""

    def __init__(self, outline: StateDict, make: Callable[[str], Tensor]):
        super().__init__(outline)
        self._make = make


def renamed(tree: StateDict, names: Mapping[str, str]) -> Lazy:
    """Return the entries of `tree` under other names: `names` maps these, in order, to those that they have."""
    shapes = outline(tree)
    return Lazy({name: shapes[key] for name, key in names.items()}, lambda name: tree[names[name]])


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


def is_weight(leaf: Tensor) -> bool:
    """Whether an entry is one that training changes little by little, and that is merged: floating-point or complex."""
    return leaf.is_floating_point() or leaf.is_complex()


def weight_names(tree: StateDict) -> list[str]:
    """Return the names of the entries that are weights, in the order of `tree`."""
    return [key for key, leaf in outline(tree).items() if is_weight(leaf)]


def is_like(leaf: Tensor, other: Tensor) -> bool:
    """Whether two tensors have one shape and dtype."""
    return leaf.shape == other.shape and leaf.dtype == other.dtype


def byte_size(tree: StateDict) -> int:
    """Return the bytes of all entries."""
    return sum(leaf.numel() * leaf.element_size() for leaf in outline(tree).values())


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that arithmetic is done in: float64 for float64, float32 for narrower ones, complex for complex."""
    if dtype.is_complex:
        return torch.promote_types(dtype, torch.complex64)
    return torch.float64 if dtype == torch.float64 else torch.float32


def is_finite(leaf: Tensor) -> bool:
    """Whether weights of any width hold no NaN or infinite values."""
    return bool(torch.isfinite(leaf.to(working_dtype(leaf.dtype)) if leaf.itemsize == 1 else leaf).all())


def vector_outline(model: StateDict) -> dict[str, Tensor]:
    """Return meta tensors with the shapes and dtypes of a task vector: the weights, in working dtypes."""
    shapes = outline(model)
    return {
        key: torch.empty(shapes[key].shape, dtype=working_dtype(shapes[key].dtype), device="meta") for key in weight_names(model)
    }


def same_values(pretrained: Tensor, finetuned: Tensor) -> bool:
    """Whether an entry is the pre-trained one in value, whatever its dtype.

    A constant that is infinite in the narrower dtype alone (-1e9 of an attention mask, in float16) is the same.
    """
    if pretrained.dtype == finetuned.dtype:
        return torch.equal(pretrained, finetuned)
    if pretrained.shape != finetuned.shape:
        return False
    wide = torch.promote_types(working_dtype(pretrained.dtype), working_dtype(finetuned.dtype))
    for before, after in zip(pretrained.reshape(-1).split(CHUNK), finetuned.reshape(-1).split(CHUNK)):
        start, end = before.to(wide), after.to(wide)
        if not torch.isfinite(end).all():
            start = before.to(finetuned.dtype).to(wide)
        elif not torch.isfinite(start).all():
            end = after.to(pretrained.dtype).to(wide)
        if not torch.equal(start, end):
            return False  # trained weights differ in the first chunk already
    return True


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
    """As `differences`, for two copies of one model, where what is floating or complex in one is so in the other."""
    ours, theirs = outline(tree), outline(other)
    return differences(name, tree, other_name, other) + [
        f"{key} is {leaf.dtype} in {name} and {theirs[key].dtype} in {other_name}"
        for key, leaf in ours.items()
        if key in theirs and _kind(theirs[key]) != _kind(leaf)
    ]


def kind_differences(pretrained: StateDict, name: str, model: StateDict) -> list[str]:
    """Return a sentence for each entry of a model that is complex where the pre-trained one is not, or the reverse."""
    ours, theirs = outline(pretrained), outline(model)
    return [f"{key} is {leaf.dtype} in the pre-trained model and {theirs[key].dtype} in {name}"
            for key, leaf in ours.items() if key in theirs and theirs[key].is_complex() != leaf.is_complex()]  # fmt: skip


def _kind(leaf: Tensor) -> tuple[bool, bool]:
    return leaf.is_floating_point(), leaf.is_complex()


def digest(entries: Iterable[tuple[str, Tensor]]) -> str:
    """Return a fingerprint (128-bit xxh3, hex) of names, dtypes, shapes and values, whatever file or order they come in."""
    return combined_digest(entry_digest(key, leaf) for key, leaf in entries)


def entry_digest(key: str, leaf: Tensor) -> str:
    """Return the line that `combined_digest` hashes for one entry: name, dtype, shape and the hash of its values."""
    values = leaf.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
    return f"{key} {leaf.dtype} {tuple(leaf.shape)} {xxhash.xxh3_128_hexdigest(values)}"


def combined_digest(entries: Iterable[str]) -> str:
    """Return the `digest` of a state dict whose entries have these digests."""
    return xxhash.xxh3_128_hexdigest("\n".join(sorted(entries)).encode())
