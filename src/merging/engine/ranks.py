"""Ranks of magnitudes within rows."""

import torch
from torch import Tensor


def ranks_in_rows(magnitudes: Tensor) -> Tensor:
    """Return the rank of each entry in its row, 0 for the smallest, (rows, length), int64; equal ones rise by place.

    magnitudes: not negative.
    """
    length = magnitudes.shape[1]
    places = torch.arange(length, device=magnitudes.device).expand_as(magnitudes)
    if magnitudes.dtype == torch.float32 and magnitudes.device.type == "cpu":
        # bits of floats that are not negative are ordered as they are, and with the place behind them no two are equal;
        # numpy sorts such numbers with vector instructions, ten times as fast as torch sorts with places
        keys = (magnitudes.view(torch.int32).long() << 32).bitwise_or_(places)
        keys.numpy().sort(1)
        order = keys.bitwise_and_(2**32 - 1)
    else:
        order = magnitudes.sort(dim=1, stable=True).indices
    return torch.empty_like(order).scatter_(1, order, places)
