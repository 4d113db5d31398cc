"""Random numbers of entries that depend on nothing but a seed, the task, the parameter and the entry's place in it: not on
the order of tasks, on slices, threads or the device.

They are hashes, of 32-bit integers with the mixing steps of MurmurHash3's end.
"""

import hashlib
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from src.merging.engine.edits import Span

FACTORS = (0x85EBCA6B, 0xC2B2AE35)


def random_bits(seed: int, spans: Sequence[Span], tasks: Sequence[str], width: int, device: torch.device) -> Tensor:
    """Return an integer for each task and column of a stack, (tasks, width), int32, uniform over all of these.

    Columns outside all spans have arbitrary ones.
    """
    places = torch.zeros(width, dtype=torch.int32, device=device)
    for span in spans:
        part = places[span.columns]
        before, after = _keys(seed, "parameter", span.key)
        torch.arange(len(part), dtype=torch.int32, device=device, out=part)
        part.add_(_signed(span.start + before))
        _mix(part)
        part.bitwise_xor_(after)
        _mix(part)
    before, after = _keys_of_tasks(seed, tuple(tasks)).to(device)[..., None]
    numbers = places.bitwise_xor(before).mul_(_signed(FACTORS[0]))
    numbers.bitwise_xor_(_shifted(numbers, 15)).add_(after)
    return numbers.mul_(_signed(FACTORS[1]))  # whose low bits are mixed less: what is compared with a bound reads the high


def bound(probability: float | Tensor) -> Tensor:
    """Return the int32 that a random one does not exceed with a probability in (0, 1]."""
    share = torch.as_tensor(probability, dtype=torch.float64)
    return (share.mul(2**32).round() - 2**31 - 1).clamp_min(-(2**31)).to(torch.int32)


def _mix(numbers: Tensor) -> None:
    """Mix the bits of int32 numbers in place; products keep the low 32 bits."""
    for distance, factor in zip((16, 13), FACTORS):
        numbers.bitwise_xor_(_shifted(numbers, distance)).mul_(_signed(factor))
    numbers.bitwise_xor_(_shifted(numbers, 16))


def _shifted(numbers: Tensor, distance: int) -> Tensor:
    """Return int32 numbers shifted right, with zeros from the left, which torch fills with the sign."""
    return numbers.bitwise_right_shift(distance).bitwise_and_(2 ** (32 - distance) - 1)


def _keys(seed: int, *names: str) -> tuple[int, int]:
    """Return two int32 numbers that a seed and names decide."""
    digest = hashlib.blake2b(repr((seed, *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little", signed=True), int.from_bytes(digest[4:], "little", signed=True)


@cache
def _keys_of_tasks(seed: int, tasks: tuple[str, ...]) -> Tensor:
    """Return the two numbers of each task, (2, tasks), int32."""
    return torch.tensor([_keys(seed, "task", task) for task in tasks], dtype=torch.int32).T.contiguous()


def _signed(number: int) -> int:
    """Return the low 32 bits of an integer as an int32 has them."""
    return (number + 2**31) % 2**32 - 2**31
