"""Answers drawn from a model, each example's by a generator of its own: whatever examples pass through the model beside it."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def draw(probabilities: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Return an index for each row of probabilities, (n, choices), drawn by these: (n,).

    generators: of the rows, on the CPU, whatever the device.
    """
    uniform = torch.stack([torch.rand((), generator=generator, dtype=torch.float64) for generator in generators])
    cumulative = probabilities.double().cumsum(1)
    drawn = torch.searchsorted(cumulative, uniform.to(cumulative)[:, None] * cumulative[:, -1:], right=True)
    return drawn[:, 0].clamp(max=probabilities.shape[1] - 1)
