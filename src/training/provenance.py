"""Provenance of fine-tuned weights: the model, recipe, mode and task recorded in the metadata of their file."""

import json
from collections.abc import Mapping
from pathlib import Path

import xxhash

from src.checkpoints.reading import metadata_of
from src.models.family import ModelFamily, TaskLike
from src.models.modes import Mode
from src.training.recipe import Recipe


def training_provenance(family: ModelFamily, recipe: Recipe, mode: Mode, task: TaskLike) -> str:
    """Return, as JSON, what fine-tuned weights follow from: digest of the pre-trained weights, recipe, mode and task."""
    facts = {"pretrained": family.pretrained_digest, "recipe": recipe.facts, "mode": mode.training}
    return json.dumps({**facts, "task": task.definition}, sort_keys=True)


def is_finetuned_here(path: Path) -> bool:
    """Whether weights say that they were fine-tuned by this program."""
    return bool(_facts(metadata_of(path)))


def same_provenance(path: Path, other: Path) -> bool:
    """Whether two files say that they follow from one fine-tuning."""
    facts = _facts(metadata_of(path))
    return bool(facts) and facts == _facts(metadata_of(other))


def recipe_digest_of(path: Path) -> str | None:
    """Return the digest of the recipe and mode that weights were fine-tuned by here; None if they were not."""
    facts = _facts(metadata_of(path))
    return recipe_digest(facts["recipe"], facts.get("mode")) if facts else None


def recipe_digest(recipe: dict, mode: dict | None) -> str:
    """Return a digest of a recipe's numbers, and of what a mode trains."""
    return xxhash.xxh3_128_hexdigest(json.dumps([recipe, mode], sort_keys=True).encode())


def mismatch(path: Path, family: ModelFamily, recipe: Recipe, mode: Mode, task: TaskLike) -> str | None:
    """Return a sentence if weights or a state fine-tuned here have another provenance than this fine-tuning; else None."""
    metadata = metadata_of(path)
    before, now = _facts(metadata), json.loads(training_provenance(family, recipe, mode, task))
    if not before or before == now:
        return None
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
    return f"{path} was fine-tuned {what}; give overwrite=true to fine-tune anew and replace it, or choose another model_location"


def _facts(metadata: Mapping[str, str]) -> dict:
    """Return the provenance in the metadata of a file; {} if it has none that this program wrote."""
    try:
        facts = json.loads(metadata.get("made_from", "{}"))
        is_ours = {"pretrained", "recipe"} <= facts.keys() and isinstance(facts["recipe"], dict)
        return facts if is_ours and isinstance(facts.get("mode", {}), dict) else {}
    except (ValueError, RecursionError, AttributeError):
        return {}


def _changes(before: dict, now: dict) -> str:
    changed = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    return ", ".join(f"{key}={before.get(key)}, not {now.get(key)}" for key in changed)
