"""Affine quantisation: numbers as codes of a few bits, with a step and a zero point for a whole parameter or each row.

A number is (code - zero point) times the step, so 0 is exact, and every other number is off by half a step at most. Codes are
kept as bit planes, packed eight bits a byte.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from src.compact.packing import pack, packed_size, unpack
from src.elementwise import chunk_size
from src.errors import UserError
from src.state_dict import Lazy, StateDict, is_like, outline

CODES, AFFINE = "codes/", "affine/"  # before the name of a quantised entry
BITS = (2, 3, 4, 8)
PER = LAYER, CHANNEL = "layer", "channel"


@dataclass(frozen=True)
class Quantiser:
    """Quantisation to codes of `bits` bits.

    per: what shares a step: `layer`, a parameter, or `channel`, a row of a matrix (of more dimensions, what shares the first
        index; a vector is one row).
    """

    bits: int
    per: str

    def __post_init__(self):
        if self.bits not in BITS or self.per not in PER:
            raise UserError(
                f"bundle.bits is {', '.join(map(str, BITS))} and bundle.per {LAYER} or {CHANNEL}; got {self.bits}, {self.per}"
            )

    def outlines(self, leaf: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outlines of the two tensors that `encode` makes of an entry."""
        rows = leaf.shape[0] if self.per == CHANNEL and leaf.ndim > 1 else 1
        codes = torch.empty(self.bits, rows, packed_size(leaf.numel() // rows), dtype=torch.uint8, device="meta")
        return codes, torch.empty(rows, 2, dtype=leaf.dtype, device="meta")

    def encode(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return an entry as packed codes, (bits, rows, ceil(columns / 8)) uint8, and the step and zero point of each row,
        (rows, 2)."""
        codes, affine = (torch.empty_like(leaf, device=values.device) for leaf in self.outlines(values))
        table = values.reshape(len(affine), -1)
        most = 2**self.bits - 1
        low, high = table.amin(1, keepdim=True).clamp_max_(0), table.amax(1, keepdim=True).clamp_min_(0)
        step = high / most - low / most  # no difference of finite numbers overflows so
        step = torch.where(step > 0, step, 1)
        zero = torch.round(-low / step)
        affine[:, :1], affine[:, 1:] = step, zero
        for where, packed in _blocks(table):
            code = torch.round(table[:, where] / step).add_(zero).clamp_(0, most).to(torch.uint8)
            for bit, plane in enumerate(codes):
                plane[:, packed] = pack(code.bitwise_right_shift(bit).bitwise_and_(1).to(torch.bool))
        return codes, affine


def decode(codes: Tensor, affine: Tensor, like: Tensor) -> Tensor:
    """Return the entry of the shape of `like` that `Quantiser.encode` made these of."""
    out = torch.empty(like.shape, dtype=affine.dtype, device=codes.device)
    table = out.view(len(affine), -1)
    step, zero = affine.unsqueeze(2).unbind(1)
    for where, packed in _blocks(table):
        part = table[:, where]
        code = sum(unpack(plane[:, packed], part.shape[1]).view(torch.uint8) << bit for bit, plane in enumerate(codes))
        torch.sub(code, zero, out=part).mul_(step)
    return out


def encoded(tree: StateDict, keys: Collection[str], quantiser: Quantiser, is_held: bool) -> Lazy:
    """Return a tree with the codes of some of its entries, `codes/KEY` and `affine/KEY`, in their place.

    is_held: whether all codes are kept, rather than the last entry's alone.
    """
    shapes: dict[str, Tensor] = {}
    sources: dict[str, tuple[str, int]] = {}  # of each tensor of codes: its entry, and which of the two it is
    for key, leaf in outline(tree).items():
        names = (CODES + key, AFFINE + key) if key in keys else (key,)
        shapes |= zip(names, quantiser.outlines(leaf) if key in keys else (leaf,))
        sources |= {name: (key, number) for number, name in enumerate(names)}
    encode = lru_cache(None if is_held else 1)(lambda key: quantiser.encode(tree[key]))

    def entry(name: str) -> Tensor:
        key, number = sources[name]
        return encode(key)[number] if key in keys else tree[key]

    return Lazy(shapes, entry)


def decoded(tree: StateDict, shapes: StateDict) -> StateDict:
    """Return a tree with entries in the place of their codes; codes that do not fit their entry stay what they are.

    shapes: outlines of the entries that may be codes.
    """
    stored = outline(tree)
    coded = [key for key, leaf in shapes.items() if CODES + key in stored and _fit(stored, key, leaf)]
    codes = {prefix + key for key in coded for prefix in (CODES, AFFINE)}
    entries = {name: leaf for name, leaf in stored.items() if name not in codes} | {key: shapes[key] for key in coded}

    def entry(key: str) -> Tensor:
        return decode(tree[CODES + key], tree[AFFINE + key], entries[key]) if CODES + key in codes else tree[key]

    return Lazy(entries, entry)


def _fit(stored: StateDict, key: str, like: Tensor) -> bool:
    """Whether a tree has both tensors that some quantiser makes of an entry; what is called `codes/...` may be a parameter."""
    codes, affine = stored[CODES + key], stored.get(AFFINE + key)
    if affine is None or codes.ndim != 3 or codes.shape[0] not in BITS:
        return False
    pairs = (Quantiser(codes.shape[0], per).outlines(like) for per in PER)
    return any(is_like(codes, of_codes) and is_like(affine, of_affine) for of_codes, of_affine in pairs)


def _blocks(table: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield slices of the columns of a table that are worked on at a time, and where their packed bits lie."""
    rows, columns = table.shape
    width = max(chunk_size(table.device) // rows // 8 * 8, 8)
    for start in range(0, columns, width):
        stop = min(start + width, columns)
        yield slice(start, stop), slice(start // 8, packed_size(stop))
