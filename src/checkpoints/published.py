"""Where a model's published files lie: at the places this program uses itself, else anywhere below the models folder.

Sets of checkpoints come as `<model>/<Task>Val/nonlinear_finetuned.pt` and `<model>/head_<Task>Val.pt`, with more folders
around them in every place they are kept at; the tangent line's files say `finetuned.pt` where others say how.
"""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from src.checkpoints.shards import ADAPTER

SUFFIXES = (".safetensors", ".pt")
ENDINGS = {"lora": (f"/{ADAPTER}", *SUFFIXES)}  # of files, in the order they are preferred in, where not SUFFIXES
MODES = ("nonlinear", "linear", "linear-2", "lora")  # how models were fine-tuned: the prefix of their files
MASKS = "TALL_mask*.npy"
SERVED_MODELS = {
    "ViT-B-32": "*32*",
    "ViT-B-16": "*16*",
    "ViT-L-14": "*14*",
}  # the models whose files are published, and their names


class PublishedFiles:
    """The files of one model below a models folder (model_location), which is looked through once, and late."""

    def __init__(self, models: Path, model: str):
        self._models, self._model = models, model

    def finetuned(self, task: str, mode: str = MODES[0]) -> Path | None:
        """The fine-tuned checkpoint of a task."""
        return self._first(f"{folder}/{name}" for folder in (f"{task}Val", task) for name in file_names(mode, "finetuned"))

    def all_finetuned(self, mode: str) -> list[Path]:
        """The fine-tuned checkpoints of all tasks, in whatever folders."""
        names = [name for name in file_names(mode, "finetuned") if "/" not in name]
        return [path for path in self._files if path.name in names]

    def zeroshot(self, mode: str = MODES[0]) -> Path | None:
        """The checkpoint that fine-tuning started from, which lies beside one or more of the tasks' or above them."""
        return next(iter(self.zeroshots(mode)), None)

    def zeroshots(self, mode: str = MODES[0]) -> list[Path]:
        """All such checkpoints, the preferred one first."""
        names = file_names(mode, "zeroshot")
        first = self._first(names)
        return list(dict.fromkeys([first, *(path for path in self._files if path.name in names)])) if first else []

    def head(self, task: str) -> Path | None:
        """The classification head of a task."""
        return self._first(f"head_{name}{suffix}" for name in (f"{task}Val", task) for suffix in SUFFIXES)

    def masks(self) -> list[Path]:
        """Published TALL masks, which say neither in their names nor inside which model they are of: their folder does."""
        return sorted(path for path in self._files if path.match(MASKS))

    def missing(self, tasks: Iterable[str], mode: str = MODES[0]) -> dict[str, list[str]]:
        """The tasks that lack an `encoder`, and those that lack a `head`."""
        tasks = list(tasks)
        found = {"encoder": lambda task: self.finetuned(task, mode), "head": self.head}
        return {what: [task for task in tasks if not find(task)] for what, find in found.items()}

    def _first(self, endings: Iterable[str]) -> Path | None:
        """The first of these below the model's own folder, else below any folder of the model's name."""
        endings = list(endings)
        own = (self._models / self._model / ending for ending in endings)
        return next((path for path in own if path.is_file()), None) or next(
            (path for ending in endings for path in self._files if path.parts[-len(Path(ending).parts) :] == Path(ending).parts),
            None,
        )

    @cached_property
    def _files(self) -> list[Path]:
        """All files below folders of the model's name, those with the shortest paths first."""
        found, seen = [], set()
        for folder, folders, names in os.walk(self._models, followlinks=True):
            own = self._model in Path(folder).relative_to(self._models).parts
            place = (own, os.path.realpath(folder))
            folders[:] = [name for name in folders if not name.startswith(".") and place not in seen]
            if own and place not in seen:
                found += [Path(folder, name) for name in names if not name.startswith(".")]
            seen.add(place)
        return sorted(found, key=lambda path: (len(path.parts), path))


def finetuned_path(models: Path, model: str, task: str, mode: str = MODES[0]) -> Path:
    """Where this program writes the fine-tuned checkpoint of a task."""
    return models / model / f"{task}Val" / file_names(mode, "finetuned")[0]


def file_names(mode: str, what: str = "finetuned") -> list[str]:
    """File names in the order they are preferred in; the first mode's may lack its name."""
    stems = [f"{mode}_{what}"] + [what] * (mode == MODES[0])
    return [f"{stem}{ending}" for stem in stems for ending in ENDINGS.get(mode, SUFFIXES)]
