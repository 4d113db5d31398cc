"""The hyperparameters of a fine-tuning."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from src.errors import UserError
from src.validation import is_number, is_whole

# What the learning rate is multiplied by after the warm-up, at a share of the remaining steps.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of fine-tuning by AdamW: linear warm-up, then a schedule to the end; gradients clipped by norm.

    An optimiser step sees `batch_size * num_grad_accumulation` examples, whose mean loss it lowers, however many
    processes share them; `batch_size` of them go through the model at a time.

    epochs: passes over the training data; None where `steps` says how long.
    max_grad_norm: None to clip nothing.
    schedule: of the learning rate, a key of SCHEDULES.
    steps: optimiser steps; None where `epochs` says how long.
    evaluate_steps: steps between two evaluations on validation data, the best of whose weights are kept; None to keep the
        last weights.
    patience: evaluations without a better score after which training ends; None for all steps.
    """

    lr: float
    weight_decay: float
    warmup_steps: int
    epochs: int | None
    batch_size: int
    num_grad_accumulation: int
    max_grad_norm: float | None
    seed: int
    schedule: str = "cosine"
    steps: int | None = None
    evaluate_steps: int | None = None
    patience: int | None = None

    def __post_init__(self):
        values = vars(self)
        set_values = {name: value for name, value in values.items() if value is not None or name not in OPTIONAL}
        problems = [f"{name} is a positive whole number; got {set_values[name]}"
                    for name in COUNTS if name in set_values and not is_whole(set_values[name], 1)]  # fmt: skip
        problems += [f"{name} is a positive number; got {set_values[name]}" for name in ("lr", "max_grad_norm")
                     if name in set_values and not (is_number(set_values[name]) and set_values[name] > 0)]  # fmt: skip
        if not is_number(self.weight_decay) or self.weight_decay < 0:
            problems.append(f"weight_decay is a number, 0 for none; got {self.weight_decay}")
        problems += [f"{name} is a whole number, at least 0; got {values[name]}" for name in ("warmup_steps", "seed")
                     if not is_whole(values[name])]  # fmt: skip
        if self.schedule not in list(SCHEDULES):
            problems.append(f"schedule is one of {', '.join(SCHEDULES)}; got {self.schedule}")
        if (self.epochs is None) == (self.steps is None):
            problems.append(f"epochs or steps says how long, the other is null; got epochs={self.epochs} and steps={self.steps}")
        if self.patience is not None and self.evaluate_steps is None:
            problems.append("patience counts evaluations, so it needs evaluate_steps=N")
        if problems:
            raise UserError([f"model.recipe.{problem}" for problem in problems])

    @property
    def facts(self) -> dict:
        """The hyperparameters as JSON values, those that came later only where they are no defaults: digests hold them."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of optimiser step `step` of `steps`, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(steps - self.warmup_steps, 1)
        return self.lr * SCHEDULES[self.schedule](progress)


COUNTS = ("epochs", "batch_size", "num_grad_accumulation", "steps", "evaluate_steps", "patience")
OPTIONAL = ("epochs", "max_grad_norm", "steps", "evaluate_steps", "patience")  # may be null
