"""Zero-shot classification heads (Radford et al., 2021): class names through prompts through the text tower."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def zero_shot_head(
    model: nn.Module, tokenize: Callable, classes: Sequence[str], templates: Sequence[str], device: torch.device
) -> Tensor:
    """(classes, width) rows: the mean of the unit features of a class's prompts, made unit, times the logit scale."""
    rows = []
    for name in classes:
        tokens = tokenize([template.format(name) for template in templates]).to(device)
        mean = model.encode_text(tokens, normalize=True).mean(0)
        rows.append(mean / mean.norm())
    return torch.stack(rows) * model.logit_scale.exp()
