"""What fine-tuned weights follow from, as their file says it."""

import json
from pathlib import Path

import xxhash

from src.checkpoints.reading import metadata_of
from src.models.family import ModelFamily, TaskLike
from src.models.modes import Mode
from src.training.recipe import Recipe


def made_from(family: ModelFamily, recipe: Recipe, mode: Mode, task: TaskLike) -> str:
    """Return the pre-trained weights, the recipe, the mode and the task that weights follow from, as JSON."""
    facts = {"pretrained": family.pretrained_digest, "recipe": vars(recipe), "mode": mode.training}
    return json.dumps({**facts, "task": task.definition}, sort_keys=True)


def is_finetuned_here(path: Path) -> bool:
    """Whether weights say that they were fine-tuned by this program."""
    return "made_from" in metadata_of(path)


def recipe_digest_of(path: Path) -> str | None:
    """Return the digest of the recipe and mode that weights were fine-tuned by here; None if they were not."""
    facts = metadata_of(path).get("made_from")
    if not facts:
        return None
    made = json.loads(facts)
    return recipe_digest(made["recipe"], made.get("mode"))


def recipe_digest(recipe: dict, mode: dict | None) -> str:
    """Return a digest of a recipe's numbers, and of what a mode trains."""
    return xxhash.xxh3_128_hexdigest(json.dumps([recipe, mode], sort_keys=True).encode())


def mismatch(path: Path, family: ModelFamily, recipe: Recipe, mode: Mode, task: TaskLike) -> str | None:
    """Return how weights made here differ in origin from what would be made now; None if they do not, or come from elsewhere."""
    metadata = metadata_of(path)
    facts, expected = metadata.get("made_from"), made_from(family, recipe, mode, task)
    if facts is None or facts == expected:
        return None
    before, now = json.loads(facts), json.loads(expected)
    if metadata.get("task", task.name) != task.name:
        what = f"on {metadata['task']}, not on {task.name}"
    elif before["pretrained"] != now["pretrained"]:
        what = "from other pre-trained weights"
    elif before["recipe"] != now["recipe"]:
        what = f"with {_changes(before['recipe'], now['recipe'])}"
    elif before.get("mode", now["mode"]) != now["mode"]:
        what = f"with finetuning_mode {_changes(before['mode'], now['mode'])}"
    elif before.get("task", now["task"]) != now["task"]:
        what = f"on {task.name} with other classes or prompts"
    else:
        return None
    return f"{path} was fine-tuned {what}; remove it, or choose another model_location"


def _changes(before: dict, now: dict) -> str:
    changed = [key for key in now if before.get(key) != now[key]]
    return ", ".join(f"{key}={before.get(key)}, not {now[key]}" for key in changed)
