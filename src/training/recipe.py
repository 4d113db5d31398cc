"""The hyperparameters of a fine-tuning."""

import math
from dataclasses import dataclass

from src.errors import UserError
from src.validation import is_number, is_whole


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of fine-tuning by AdamW: linear warm-up, then a cosine to zero; gradients clipped by norm.

    An optimiser step sees `batch_size * num_grad_accumulation` examples, whose mean loss it lowers, however many
    processes share them; `batch_size` of them go through the model at a time.
    """

    lr: float
    weight_decay: float
    warmup_steps: int
    epochs: int
    batch_size: int
    num_grad_accumulation: int
    max_grad_norm: float
    seed: int

    def __post_init__(self):
        counts, amounts = ("epochs", "batch_size", "num_grad_accumulation"), ("lr", "max_grad_norm")
        values = vars(self)
        problems = [f"{name} is a positive whole number; got {values[name]}" for name in counts if not is_whole(values[name], 1)]
        problems += [f"{name} is a positive number; got {values[name]}" for name in amounts
                     if not is_number(values[name]) or values[name] <= 0]  # fmt: skip
        if not is_number(self.weight_decay) or self.weight_decay < 0:
            problems.append(f"weight_decay is a number, 0 for none; got {self.weight_decay}")
        problems += [f"{name} is a whole number, at least 0; got {values[name]}" for name in ("warmup_steps", "seed")
                     if not is_whole(values[name])]  # fmt: skip
        if problems:
            raise UserError([f"model.recipe.{problem}" for problem in problems])

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of optimiser step `step` of `steps`, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(steps - self.warmup_steps, 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))
