"""Elementwise arithmetic on state dicts: mappings from names to tensors go in, lazy new ones come out, nothing is edited.

No sum can take less than reading each operand and writing the result once. So an expression over expressions
(`base + 0.3 * (a + b)`) is computed in one go, a chunk at a time: what lies between stays in a processor's cache.
"""

import cmath
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from src.errors import UserError
from src.state_dict import Computed, Lazy, Memoized, StateDict, differences, outline, working_dtype

CHUNK = 2**18  # entries on a CPU, where those of a few operands fit a core's cache
LARGE_CHUNK = 2**26  # on other devices, where many small steps are slow: what a wider dtype takes is bounded all the same

Combine = Callable[..., Tensor]


class Elementwise(Computed):
    """An elementwise function of the entries of trees with equal keys and shapes.

    combine: `combine(key)` returns the function of the trees' tensors.
    """

    def __init__(self, outline: StateDict, combine: Callable[[str], Combine], trees: Sequence[StateDict]):
        super().__init__(outline)
        self._combine, self._trees = combine, trees

    def operands(self, key: str) -> tuple[Combine, list[Tensor]]:
        """Return the function and the tensors that an entry is computed from, nested expressions flattened."""
        combine, parts, leaves = self._combine(key), [], []
        for tree in self._trees:
            part, below = operands(tree, key)
            parts.append((part, slice(len(leaves), len(leaves) + len(below))))
            leaves += below
        return lambda *tensors: combine(*(part(*tensors[where]) for part, where in parts)), leaves

    def _make(self, key: str) -> Tensor:
        combine, leaves = self.operands(key)
        if all(map(_is_constant, leaves)):  # what no task changed takes no memory however vectors are added and scaled
            return combine(*map(_number, leaves)).expand(leaves[0].shape)
        device = device_of(leaves)
        if leaves[0].numel() <= chunk_size(device):
            return combine(*(leaf.to(device) for leaf in leaves))
        total: Tensor | None = None
        for where, parts in chunks(device, leaves):
            part = combine(*parts)
            if part.requires_grad:  # autograd does not record what is written into slices
                return combine(*(leaf.to(device) for leaf in leaves))
            if total is None:
                total = torch.empty(leaves[0].shape, dtype=part.dtype, device=device)
            total.view(-1)[where] = part
        return total


def operands(tree: StateDict, key: str) -> tuple[Combine, list[Tensor]]:
    """Return the function and the tensors that an entry of `tree` is computed from: of most trees, identity and the entry."""
    own = getattr(tree, "operands", None)
    return own(key) if own else (_identity, [tree[key]])


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
        shape = outlines[0][key].shape  # by as many dimensions as entries have: a number changes no dtype, a vector does
        dtype = combine(*(torch.ones([1] * len(shape), dtype=part[key].dtype) for part in outlines)).dtype
        return torch.empty(shape, dtype=dtype, device="meta")

    return Elementwise(Memoized(outlines[0], leaf), lambda key: combine, trees)


def zeros_view(like: Tensor, device: torch.device) -> Tensor:
    """Return zeros of the shape and dtype of `like` that take no memory: a scalar zero, expanded."""
    return torch.zeros((), dtype=like.dtype, device=device).expand(like.shape)


def is_zeros_view(leaf: Tensor) -> bool:
    """Whether a tensor is a `zeros_view`: False of a tensor that stores its zeros."""
    return _is_constant(leaf) and not _number(leaf).any()


def add_vector(pretrained: StateDict, vector: StateDict, scale: float = 1.0) -> Lazy:
    """Return `pretrained + scale * vector`, lazily, in the dtypes of `pretrained`.

    Entries that the vector lacks, or does not change (`zeros_view`), are those of `pretrained` themselves. The sum with a
    vector from `pretrained` to another model (`task_vectors.ModelVector`) is that model, without rounding. No gradients
    are followed.

    Raise UserError if the vector has names or shapes that `pretrained` has not, or makes an entry infinite or NaN.
    """
    shapes, changes = outline(pretrained), outline(vector)
    misfits = [
        key for key, leaf in changes.items()
        if key not in shapes or shapes[key].shape != leaf.shape or (leaf.is_complex() and not shapes[key].is_complex())
    ]  # fmt: skip
    if misfits:
        raise UserError(f"the vector does not fit these weights: {', '.join(misfits[:3])} ({len(misfits)} in all)")

    end = vector.end if scale == 1 and getattr(vector, "start", None) is pretrained else {}

    def entry(key: str) -> Tensor:
        base = pretrained[key]
        if key not in changes:
            return base
        change, leaves = operands(vector, key)
        if all(map(_is_constant, leaves)) and not change(*map(_number, leaves)).any():
            return base
        if key in end and torch.promote_types(end[key].dtype, base.dtype) == base.dtype:
            return end[key].detach().to(device_of(leaves), base.dtype)
        device = device_of(leaves)
        total = torch.empty(base.shape, dtype=base.dtype, device=device)
        flat = total.view(-1)
        for where, (start, *parts) in chunks(device, [base.detach(), *leaves]):
            step, out = change(*parts).detach(), flat[where]
            wide = start.to(torch.promote_types(step.dtype, working_dtype(start.dtype)))
            if out.dtype == wide.dtype:
                torch.add(wide, step, alpha=scale, out=out)
            else:
                out.copy_(torch.add(wide, step, alpha=scale))
            if not _fits(out, wide, step, scale):
                _check_finite(key, start, step, out)
        return total

    return Lazy(shapes, entry)


def as_real(tree: StateDict) -> StateDict:
    """Return `tree` with complex entries seen as real and imaginary parts, (2n,): methods compare sizes and signs."""
    shapes = outline(tree)
    if not any(leaf.is_complex() for leaf in shapes.values()):
        return tree
    return Lazy({key: _real_parts(leaf) for key, leaf in shapes.items()}, lambda key: _real_parts(tree[key]))


def as_complex(tree: StateDict, model: StateDict) -> StateDict:
    """Return a tree of `as_real` entries with those that are complex in `model` made complex again, in its shapes."""
    own, shapes = outline(tree), {key: leaf.shape for key, leaf in outline(model).items() if leaf.is_complex()}
    if not any(key in shapes for key in own):
        return tree

    def entry(key: str, leaf: Tensor) -> Tensor:
        if key not in shapes:
            return leaf
        if leaf.device.type != "meta" and is_zeros_view(leaf):
            return torch.zeros((), dtype=leaf.dtype.to_complex(), device=leaf.device).expand(shapes[key])
        return torch.view_as_complex(leaf.reshape(-1, 2)).reshape(shapes[key])

    return Lazy({key: entry(key, leaf) for key, leaf in own.items()}, lambda key: entry(key, tree[key]))


def _real_parts(leaf: Tensor) -> Tensor:
    return torch.view_as_real(leaf.resolve_conj()).reshape(-1) if leaf.is_complex() else leaf


def chunks(device: torch.device, leaves: Sequence[Tensor]) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield slices of the flattened entries, and the parts of the tensors there, on the device; `leaves` have one shape."""
    size = chunk_size(device)
    flat = [_number(leaf).reshape(1).expand(leaf.numel()) if _is_constant(leaf) else leaf.reshape(-1) for leaf in leaves]
    for start in range(0, leaves[0].numel(), size):
        where = slice(start, start + size)
        yield where, [leaf[where].to(device) for leaf in flat]


def chunk_size(device: torch.device) -> int:
    """Return how many entries are worked on at a time; a multiple of 8."""
    return CHUNK if device.type == "cpu" else LARGE_CHUNK


def device_of(leaves: Sequence[Tensor]) -> torch.device:
    """Return the device to compute on: that of the first tensor that is not a constant."""
    return next((leaf.device for leaf in leaves if not _is_constant(leaf)), leaves[0].device)


def _fits(out: Tensor, wide: Tensor, step: Tensor, scale: float) -> bool:
    """Whether the sum is finite and within its dtype; some 8-bit ones have no infinity, and would keep their largest number."""
    if out.itemsize > 1:
        return cmath.isfinite(out.sum(dtype=wide.dtype).item())
    largest = torch.add(wide, step, alpha=scale).abs().amax().item()
    return math.isfinite(largest) and largest <= torch.finfo(out.dtype).max


def _check_finite(key: str, start: Tensor, step: Tensor, out: Tensor) -> None:
    """Raise UserError if the sum of finite numbers, or of a step that is not finite, is infinite or NaN."""
    if not torch.isfinite(step).all():
        raise UserError(
            f"the vector to add has NaN or infinite values in {key}; lower the coefficient, or check the vector's weights"
        )
    wide = working_dtype(out.dtype)
    if out.itemsize == 1 or (~torch.isfinite(out) & torch.isfinite(start.to(wide))).any():
        raise UserError(
            f"the merged {key} overflows {out.dtype}; lower the coefficient, or give the pre-trained model in float32"
        )


def _is_constant(leaf: Tensor) -> bool:
    """Whether all entries of a tensor are one stored number, as its strides show; True of a single entry."""
    return leaf.numel() > 0 and all(size == 1 or stride == 0 for size, stride in zip(leaf.shape, leaf.stride()))


def _number(leaf: Tensor) -> Tensor:
    """Return the number that a constant tensor repeats, with the same number of dimensions, each of size 1."""
    return leaf[(slice(0, 1),) * leaf.ndim]


def _identity(leaf: Tensor) -> Tensor:
    return leaf
