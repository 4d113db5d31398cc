"""The state of an unfinished fine-tuning on disk: what a rerun needs to go on as if nothing had happened.

Learning rates, the order of examples, their augmentation and all other randomness follow from the seed and the number of
a step (see `recipe.Order`, `models.augmented`), so weights, the optimiser's moments and that number are all there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim import AdamW

from src.checkpoints.reading import metadata_of, open_checkpoint
from src.checkpoints.writing import save_file
from src.errors import UserError
from src.models.trainable import Learner

FINETUNED = "_finetuned"
WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")


def state_path(finetuned: Path) -> Path:
    """Where the state lies while the weights that will be at `finetuned` are made."""
    return _beside(finetuned, "unfinished.safetensors")


def log_path(finetuned: Path) -> Path:
    """Where the log of the weights at `finetuned` lies."""
    return _beside(finetuned, "training.jsonl")


def _beside(finetuned: Path, name: str) -> Path:
    """`linear_NAME` beside `linear_finetuned.safetensors`; of an adapter, beside its folder."""
    whole = finetuned if finetuned.stem.endswith(FINETUNED) or not finetuned.parent.name.endswith(FINETUNED) else finetuned.parent
    return whole.with_name(f"{whole.stem.removesuffix(FINETUNED)}_{name}")


@dataclass(frozen=True)
class TrainingState:
    """The file at `path`. about: what a fine-tuning is of, which a state must agree with to be gone on from."""

    path: Path
    learner: Learner
    optimizer: AdamW
    about: Mapping[str, str]

    def save(self, step: int) -> None:
        """Write the state after `step` steps; the earlier one is there until this is complete."""
        entries = {}
        for name, leaf in self.learner.entries.items():
            entries[f"{WEIGHT}.{name}"] = leaf.detach()
            entries |= {f"{moment}.{name}": self.optimizer.state[leaf][moment] for moment in MOMENTS}
        save_file(entries, self.path, {**self.about, "step": str(step)})

    def load(self) -> int:
        """Put weights and moments back, if there is a file; how many steps it is after.

        Raises UserError if it was saved with another `about`, or is no state of this learner.
        """
        if not self.path.exists():
            return 0
        told = metadata_of(self.path)
        try:
            found = open_checkpoint(self.path)
        except UserError as reason:
            said = f"{self.path}, the state of an unfinished fine-tuning, is spoiled; remove it to start anew"
            raise UserError(said) from reason
        changed = [key for key, value in self.about.items() if told.get(key) != value]
        entries = self.learner.entries
        lacking = [name for name, leaf in entries.items() for kind in (WEIGHT, *MOMENTS)
                   if f"{kind}.{name}" not in found or found[f"{kind}.{name}"].shape != leaf.shape]  # fmt: skip
        if changed or lacking or not told.get("step", "").isdigit():
            raise UserError(
                f"{self.path} is the state of another fine-tuning (its {', '.join([*changed, *lacking][:3]) or 'step'} differ); "
                "remove it to start anew, or choose another model_location"
            )
        step, moments = int(told["step"]), {}
        with torch.no_grad():
            for number, (name, leaf) in enumerate(entries.items()):
                leaf.copy_(found[f"{WEIGHT}.{name}"])
                kept = {moment: found[f"{moment}.{name}"].clone() for moment in MOMENTS}
                moments[number] = {"step": torch.tensor(float(step)), **kept}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        return step

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
