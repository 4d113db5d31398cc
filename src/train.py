"""The one training loop: fine-tune a model family on one task."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from torch import Generator

from src.checkpoints import metadata_of
from src.errors import UserError
from src.models.family import ModelFamily, TaskLike
from src.saving import save_file
from src.state_dict import digest

Report = Callable[[str, int], None]


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune: AdamW, linear warm-up then cosine to zero per optimiser step, gradients clipped by norm."""

    lr: float
    weight_decay: float
    warmup_steps: int
    epochs: int
    batch_size: int
    max_grad_norm: float
    seed: int

    def __post_init__(self):
        positive = {name: getattr(self, name) for name in ("lr", "epochs", "batch_size", "max_grad_norm")}
        wrong = [f"{name} is a positive number; got {value}" for name, value in positive.items()
                 if not isinstance(value, int | float) or not value > 0]  # fmt: skip
        if wrong:
            raise UserError([f"model.recipe.{sentence}" for sentence in wrong])

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of optimiser step `step` of `steps`, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        gone = (step - self.warmup_steps) / max(steps - self.warmup_steps, 1)
        return self.lr * 0.5 * (1 + math.cos(math.pi * gone))


def finetune(
    family: ModelFamily, task: TaskLike, recipe: Recipe, path: Path, plan: Callable[[int], None], report: Report
) -> None:
    """Fine-tune from the pre-trained weights and write the weights to `path`, which appears when they are complete.

    `plan(steps)` is told the number of steps once, `report(what, 1)` each step.
    """
    family.prepare(task)
    family.load(family.pretrained)
    torch.manual_seed(recipe.seed)
    order = Generator().manual_seed(recipe.seed)
    parameters = family.trainable()
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * math.ceil(len(task.examples("train")) / recipe.batch_size)
    plan(steps)
    step = 0
    for _ in range(recipe.epochs):
        for batch in family.training_batches(task, recipe.batch_size, order):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step, steps)
            loss = family.loss(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
            optimizer.step()
            step += 1
            report(f"fine-tuning {family.name} on {task.name}", 1)
    if not math.isfinite(loss.item()):
        raise UserError(f"the loss on {task.name} ended as {loss.item()}; lower model.recipe.lr and try again")
    save_file(family.weights(), path, {"task": task.name, "model": family.name, "made_from": made_from(family, recipe, task)})


def made_from(family: ModelFamily, recipe: Recipe, task: TaskLike) -> str:
    """What fine-tuned weights follow from, as they carry it in their file."""
    asked = {"pretrained": digest(family.pretrained.items()), "recipe": vars(recipe), "task": task.definition}
    return json.dumps(asked, sort_keys=True)


def is_made_here(path: Path) -> bool:
    """Whether weights say that they were fine-tuned by this program."""
    return "made_from" in metadata_of(path)


def recipe_digest(path: Path) -> str | None:
    """Of the recipe that weights say they were fine-tuned by here; None if they were not."""
    said = metadata_of(path).get("made_from")
    return said and xxhash.xxh3_128_hexdigest(json.dumps(json.loads(said)["recipe"], sort_keys=True).encode())


def mismatch(path: Path, family: ModelFamily, recipe: Recipe, task: TaskLike) -> str | None:
    """How weights made here differ in origin from what would be made now; None if they do not, or come from elsewhere."""
    about = metadata_of(path)
    said, expected = about.get("made_from"), made_from(family, recipe, task)
    if said is None or said == expected:
        return None
    before, now = json.loads(said), json.loads(expected)
    if about.get("task", task.name) != task.name:
        what = f"on {about['task']}, not on {task.name}"
    elif before["pretrained"] != now["pretrained"]:
        what = "from other pre-trained weights"
    elif before["recipe"] != now["recipe"]:
        changed = [key for key in now["recipe"] if before["recipe"].get(key) != now["recipe"][key]]
        what = "with " + ", ".join(f"{key}={before['recipe'].get(key)}, not {now['recipe'][key]}" for key in changed)
    elif before.get("task", now["task"]) != now["task"]:
        what = f"on {task.name} with other classes or prompts"
    else:
        return None
    return f"{path} was fine-tuned {what}; remove it, or choose another model_location"
