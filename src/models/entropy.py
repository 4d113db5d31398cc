"""The entropy of predictions."""

import torch
from torch import Tensor


def entropies(scores: Tensor) -> Tensor:
    """Return the entropy, in nats, of the softmax of each row, (..., choices) -> (...); choices of score -inf are none."""
    log_probs = scores.log_softmax(-1)
    return -(log_probs.exp() * torch.where(log_probs > -torch.inf, log_probs, 0)).sum(-1)
