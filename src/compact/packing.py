"""Packed bits: eight a byte, the first one the highest, as np.packbits has it."""

import math

import numpy as np
import torch
from torch import Tensor

from src.elementwise import chunks

# Eight bytes of 0 or 1, read as one (signed) number, times the first gather in its highest byte, the first byte as the
# highest bit, as np.packbits has it. The other way, a byte is copied eight times and each copy keeps one bit.
_GATHER = 0x8040201008040201 - 2**64
_COPIES, _BITS, _CARRY = 0x0101010101010101, 0x0102040810204080, 0x7F7F7F7F7F7F7F7F


def packed_size(count: int) -> int:
    """Return the bytes that `count` bits take."""
    return math.ceil(count / 8)


def pack(mask: Tensor) -> Tensor:
    """Return a mask, (..., n) bool, packed, (..., ceil(n / 8)) uint8."""
    return torch.from_numpy(np.packbits(mask.numpy(), axis=-1)) if mask.device.type == "cpu" else gathered(mask)


def unpack(packed: Tensor, count: int) -> Tensor:
    """Return a packed mask, (..., ceil(count / 8)) uint8, as (..., count) bool."""
    if packed.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1, count=count)).view(torch.bool)
    return spread(packed, count)


def gathered(mask: Tensor) -> Tensor:
    """As `pack`, on any device."""
    short = -mask.shape[-1] % 8
    if short:
        mask = torch.nn.functional.pad(mask, (0, short))
    elif mask.storage_offset() % 8:
        mask = mask.clone()  # eight bytes can be read as one number only where such a number may start
    return mask.contiguous().view(torch.int64).mul(_GATHER).bitwise_right_shift_(56).to(torch.uint8)


def spread(packed: Tensor, count: int) -> Tensor:
    """As `unpack`, on any device."""
    bits = packed.long().mul_(_COPIES).bitwise_and_(_BITS)
    return bits.add_(_CARRY).bitwise_right_shift_(7).bitwise_and_(_COPIES).view(torch.bool)[..., :count]


def masked(values: Tensor, packed: Tensor) -> Tensor:
    """Return a copy of `values` that is zero where the packed mask of its flattened form is off."""
    out = torch.empty_like(values, memory_format=torch.contiguous_format)
    flat, packed = out.view(-1), packed.to(values.device)
    for where, (part,) in chunks(values.device, [values]):
        on = unpack(packed[where.start // 8 : packed_size(where.start + len(part))], len(part))
        torch.mul(part, on.view(torch.uint8), out=flat[where])
    return out
