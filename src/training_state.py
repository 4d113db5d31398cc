"""The state of an unfinished fine-tuning on disk: what a rerun needs to go on as if nothing had happened.

Learning rates, the order of examples, their augmentation and all other randomness follow from the seed and the number of
a step (see `recipe.Order`, `models.augmented`), so weights, the optimiser's moments and that number are all there is.
"""

from pathlib import Path

import torch
from torch.optim import AdamW

from src.checkpoints import metadata_of, open_checkpoint
from src.errors import UserError
from src.models.learner import Learner
from src.saving import save_file

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")


def state_path(finetuned: Path) -> Path:
    """Where the state lies while the weights that will be at `finetuned` are made."""
    folder = finetuned.parent
    if finetuned.stem.endswith("_finetuned"):
        return folder / f"{finetuned.stem.removesuffix('_finetuned')}_unfinished.safetensors"
    return folder.with_name(f"{folder.name.removesuffix('_finetuned')}_unfinished.safetensors")  # an adapter's folder


def save_state(path: Path, learner: Learner, optimizer: AdamW, step: int, about: dict[str, str]) -> None:
    """Write the state after `step` steps, with `about` in its header; the earlier one is there until this is complete."""
    entries = {}
    for name, leaf in learner.entries.items():
        entries[f"{WEIGHT}.{name}"] = leaf.detach()
        entries |= {f"{moment}.{name}": optimizer.state[leaf][moment] for moment in MOMENTS}
    save_file(entries, path, {**about, "step": str(step)})


def load_state(path: Path, learner: Learner, optimizer: AdamW, about: dict[str, str]) -> int:
    """Put a state back; how many steps it is after.

    Raises UserError if it was saved with another `about`, or is no state of this learner.
    """
    told, found = metadata_of(path), open_checkpoint(path)
    changed = [key for key, value in about.items() if told.get(key) != value]
    lacking = [name for name, leaf in learner.entries.items() for kind in (WEIGHT, *MOMENTS)
               if f"{kind}.{name}" not in found or found[f"{kind}.{name}"].shape != leaf.shape]  # fmt: skip
    if changed or lacking or not told.get("step", "").isdigit():
        raise UserError(
            f"{path} is the state of another fine-tuning (its {', '.join([*changed, *lacking][:3]) or 'step'} differ); "
            "remove it to start anew, or choose another model_location"
        )
    step, moments = int(told["step"]), {}
    with torch.no_grad():
        for number, (name, leaf) in enumerate(learner.entries.items()):
            leaf.copy_(found[f"{WEIGHT}.{name}"])
            kept = {moment: found[f"{moment}.{name}"].clone() for moment in MOMENTS}
            moments[number] = {"step": torch.tensor(float(step)), **kept}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return step
