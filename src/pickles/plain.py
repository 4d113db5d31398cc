"""Whether what a file gave is an ordinary tensor under a name: torch.load hands out several kinds that are not."""

import torch
from torch import Tensor


def stranger(key: object, leaf: object, size: int) -> str | None:
    """What is wrong with an entry of a file of so many bytes; None for a tensor with values, in memory or mapped.

    A stride of zero lets one number stand for any count of them, and whoever then computes with the tensor runs out of memory.
    """
    if not isinstance(key, str):
        return f"{key!r} (a {type(key).__name__} for a name)"
    if not isinstance(leaf, Tensor):
        return f"{key} (a {type(leaf).__name__})"
    if leaf.is_meta or leaf.device.type != "cpu":
        return f"{key} (without values, on the device {leaf.device})"
    if leaf.layout != torch.strided or leaf.is_nested or leaf.is_quantized:
        return f"{key} (sparse, nested or quantized)"
    if leaf.numel() * leaf.element_size() > size:
        return f"{key} (of shape {tuple(leaf.shape)}, which is more than the whole file)"
    return None
