"""The state of an unfinished fine-tuning on disk: what a rerun needs to go on as if nothing had happened.

Learning rates, the order of examples, their augmentation and all other randomness follow from the seed and the number of
a step (see `schedule.BatchSchedule`, `models.loader.seed_of`), so weights, the optimiser's moments and that number are
all there is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim import AdamW

from src.checkpoints.reading import metadata_of, open_files
from src.checkpoints.writing import save_file
from src.errors import UserError, shorten
from src.models.family import Trainable
from src.training.best import BestWeights

FINETUNED = "_finetuned"
WORDS = {
    "made_from": "recipe or mode",
    "data": "set of examples",
    "model_identity": "architecture",
    "precision": "train_precision",
}
WEIGHT, BEST, MOMENTS = "weight", "best", ("exp_avg", "exp_avg_sq")


def state_path(finetuned: Path) -> Path:
    """Return the path of the training state of the weights that will be at `finetuned`."""
    return _beside(finetuned, "unfinished.safetensors")


def log_path(finetuned: Path) -> Path:
    """Return the path of the training log of the weights at `finetuned`."""
    return _beside(finetuned, "training.jsonl")


def _beside(finetuned: Path, name: str) -> Path:
    """Return `linear_NAME` beside `linear_finetuned.safetensors`; of an adapter, beside its folder."""
    is_adapter = not finetuned.stem.endswith(FINETUNED) and finetuned.parent.name.endswith(FINETUNED)
    whole = finetuned.parent if is_adapter else finetuned
    return whole.with_name(f"{whole.stem.removesuffix(FINETUNED)}_{name}")


@dataclass(frozen=True)
class TrainingState:
    """The state file of one fine-tuning.

    about: metadata that identify the fine-tuning; a saved state with other values is refused.
    """

    path: Path
    trainable: Trainable
    optimizer: AdamW
    about: Mapping[str, str]
    best: BestWeights

    def save(self, step: int) -> None:
        """Write the state after `step` steps; the earlier one is there until this is complete."""
        entries = {}
        for name, leaf in self.trainable.entries.items():
            entries[f"{WEIGHT}.{name}"] = leaf.detach()
            entries |= {f"{moment}.{name}": self.optimizer.state[leaf][moment] for moment in MOMENTS}
        entries |= {f"{BEST}.{name}": leaf for name, leaf in self.best.entries.items()}
        save_file(entries, self.path, {**self.about, "step": str(step), **self.best.facts})

    def load(self) -> int:
        """Restore weights and moments, if there is a file; return the number of steps it is after.

        Raise UserError if it was saved with another `about`, or is no state of this trainable.
        """
        if not self.path.exists():
            return 0
        metadata = metadata_of(self.path)
        try:
            saved = open_files(self.path)
        except UserError as error:
            message = f"{self.path}, the state of an unfinished fine-tuning, is damaged; remove it to start anew"
            raise UserError(message) from error
        changed = [key for key, value in self.about.items() if metadata.get(key) != value]
        entries = self.trainable.entries
        missing = [name for name, leaf in entries.items() for kind in (WEIGHT, *MOMENTS)
                   if f"{kind}.{name}" not in saved or saved[f"{kind}.{name}"].shape != leaf.shape]  # fmt: skip
        if changed or missing or not metadata.get("step", "").isdigit():
            others = [*dict.fromkeys(WORDS.get(key, key) for key in changed), *missing] or ["steps"]
            raise UserError(
                f"{self.path} is the state of a fine-tuning with another {shorten(others)}; remove it to start anew, or choose "
                "another model_location"
            )
        step, state = int(metadata["step"]), {}
        with torch.no_grad():
            for number, (name, leaf) in enumerate(entries.items()):
                leaf.copy_(saved[f"{WEIGHT}.{name}"])
                moments = {moment: saved[f"{moment}.{name}"].clone() for moment in MOMENTS}
                state[number] = {"step": torch.tensor(float(step)), **moments}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        kept = {name: saved[f"{BEST}.{name}"].clone() for name in entries if f"{BEST}.{name}" in saved}
        self.best.load(kept, metadata)
        return step

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)
