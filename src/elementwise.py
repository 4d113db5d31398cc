"""Elementwise arithmetic on state dicts: mappings from names to tensors go in, lazy new ones come out, nothing is edited.

The floor is reading each operand and writing the result once. So an expression over expressions (`base + 0.3 * (a + b)`)
is computed in one go, a chunk at a time: what lies between stays in the processor's cache and takes no memory.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from src.errors import UserError
from src.state_dict import Lazy, Memoized, StateDict, differences, outline, working_dtype

CHUNK = {"cpu": 2**18}  # entries: a few operands fit a core's cache
LARGE_CHUNK = 2**26  # on other devices, where many small steps are slow: what a wider dtype takes is bounded all the same

Combine = Callable[..., Tensor]


class Elementwise(Lazy):
    """`combine(key)` of the entries of trees with equal keys and shapes, an elementwise function of tensors."""

    def __init__(self, outline: StateDict, combine: Callable[[str], Combine], trees: Sequence[StateDict]):
        super().__init__(outline, self._compute)
        self._combine, self._trees = combine, trees

    def operands(self, key: str) -> tuple[Combine, list[Tensor]]:
        """Return the tensors that an entry is computed from and the function of them, through all expressions below."""
        combine, parts = self._combine(key), [operands(tree, key) for tree in self._trees]

        def nested(*tensors: Tensor) -> Tensor:
            rest = iter(tensors)
            return combine(*(part(*(next(rest) for _ in leaves)) for part, leaves in parts))

        return nested, [leaf for _, leaves in parts for leaf in leaves]

    def _compute(self, key: str) -> Tensor:
        combine, leaves = self.operands(key)
        if all(map(_is_constant, leaves)):  # what no task changed takes no memory however vectors are added and scaled
            return combine(*map(_number, leaves)).expand(leaves[0].shape)
        device = leaves[0].device
        if leaves[0].numel() <= chunk_size(device):
            return combine(*leaves)
        total = torch.empty(leaves[0].shape, dtype=self.outline[key].dtype, device=device)
        for out, *parts in chunks(device, total, *leaves):
            out.copy_(combine(*parts))
        return total


def operands(tree: StateDict, key: str) -> tuple[Combine, list[Tensor]]:
    """Return the tensors that an entry of `tree` is computed from and the function of them; of most trees, itself."""
    own = getattr(tree, "operands", None)
    return own(key) if own else (_itself, [tree[key]])


def zip_with(combine: Combine, *trees: StateDict) -> Elementwise:
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

    return Elementwise(Memoized(outlines[0], leaf), lambda key: combine, trees)


def zeros_view(like: Tensor, device: torch.device) -> Tensor:
    """Return zeros of the shape and dtype of `like` that take no memory: one zero, seen from everywhere."""
    return torch.zeros((), dtype=like.dtype, device=device).expand(like.shape)


def is_zeros_view(leaf: Tensor) -> bool:
    """Whether a tensor is a `zeros_view`; one that holds zeros is none."""
    return _is_constant(leaf) and not _number(leaf)


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
        change, leaves = operands(vector, key)
        if all(map(_is_constant, leaves)) and not change(*map(_number, leaves)):
            return base
        device = leaves[0].device
        total = torch.empty(base.shape, dtype=base.dtype, device=device)
        for out, start, *parts in chunks(device, total, base, *leaves):
            step = change(*parts)
            wide = start.to(device=device, dtype=torch.promote_types(step.dtype, working_dtype(start.dtype)))
            if out.dtype == wide.dtype:
                torch.add(wide, step, alpha=scale, out=out)
            else:
                out.copy_(torch.add(wide, step, alpha=scale))
            overflows = not math.isfinite(out.sum(dtype=wide.dtype).item()) and not torch.isfinite(out).all()
            if overflows and torch.isfinite(start).all():
                raise UserError(f"the merged {key} overflows {base.dtype}; lower the coefficient, or use a wider dtype")
        return total

    return Lazy(shapes, entry)


def chunks(device: torch.device, *leaves: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield slices of tensors of one shape, none larger than suits the device."""
    size = chunk_size(device)
    if leaves[0].numel() <= size:
        yield leaves
        return
    flat = [_number(leaf).expand(leaf.numel()) if _is_constant(leaf) else leaf.reshape(-1) for leaf in leaves]
    yield from zip(*(leaf.split(size) for leaf in flat))


def chunk_size(device: torch.device) -> int:
    """Return how many entries are worked on at a time; a multiple of 8."""
    return CHUNK.get(device.type, LARGE_CHUNK)


def _is_constant(leaf: Tensor) -> bool:
    """Whether a tensor of several entries is one number seen from everywhere."""
    return leaf.numel() > 1 and not any(leaf.stride())


def _number(leaf: Tensor) -> Tensor:
    """Return the number that a constant tensor repeats, without dimensions."""
    return leaf[(0,) * leaf.ndim]


def _itself(leaf: Tensor) -> Tensor:
    return leaf
