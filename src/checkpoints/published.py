"""Where a model's published files lie: at the paths this program writes to, else anywhere below the models folder.

Sets of checkpoints come as `<model>/<Task>Val/nonlinear_finetuned.pt` and `<model>/head_<Task>Val.pt`, with more folders
around them wherever they are published; those of tangent task arithmetic say `finetuned.pt` for `nonlinear_finetuned.pt`.
MaTS' lie as in its bucket (see `mats`).
"""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from src.checkpoints import mats
from src.checkpoints.shards import ADAPTER

SUFFIXES = (".safetensors", ".pt")  # the preferred one first
ENDINGS = {"lora": (f"/{ADAPTER}", *SUFFIXES)}  # of the modes whose files have others than SUFFIXES, the preferred one first
FILE_PREFIXES = ("nonlinear", "linear", "linear-2", "lora", "ia3")  # of fine-tuned models, by how they were trained
MASKS = "TALL_mask*.npy"
SERVED_MODELS = {"ViT-B-32": "*32*", "ViT-B-16": "*16*", "ViT-L-14": "*14*"}  # published models, and patterns of their files


class PublishedFiles:
    """The files of one model below a models folder, which is searched once, when the first file is looked for."""

    def __init__(self, models: Path, model: str):
        self._models, self._model = models, model

    def finetuned(self, task: str, mode: str = FILE_PREFIXES[0]) -> Path | None:
        """Return the path of a task's fine-tuned checkpoint; None if there is none."""
        own = self._first(f"{folder}/{name}" for folder in (f"{task}Val", task) for name in file_names(mode, "finetuned"))
        return own or mats.finetuned_in(self._files, self._model, task, mode)

    def all_finetuned(self, mode: str) -> list[Path]:
        """Return the fine-tuned checkpoints of all tasks, whatever their folders are called."""
        names = [name for name in file_names(mode, "finetuned") if "/" not in name]
        return [path for path in self._files if path.name in names]

    def zeroshot(self, mode: str = FILE_PREFIXES[0]) -> Path | None:
        """Return the path of the checkpoint that fine-tuning started from, beside those of tasks or above them, or None."""
        return next(iter(self.zeroshots(mode)), None)

    def zeroshots(self, mode: str = FILE_PREFIXES[0]) -> list[Path]:
        """Return the paths of all checkpoints that fine-tuning started from, the preferred one first."""
        names = file_names(mode, "zeroshot")
        first = self._first(names)
        return list(dict.fromkeys([first, *(path for path in self._files if path.name in names)])) if first else []

    def head(self, task: str) -> Path | None:
        """Return the path of a task's classification head; None if there is none."""
        return self._first(f"head_{name}{suffix}" for name in (f"{task}Val", task) for suffix in SUFFIXES)

    def masks(self) -> list[Path]:
        """Return published TALL masks, of which only the folder says which model they are of."""
        return sorted(path for path in self._files if path.match(MASKS))

    def missing(self, tasks: Iterable[str], mode: str = FILE_PREFIXES[0]) -> dict[str, list[str]]:
        """Return the tasks that lack an `encoder`, and those that lack a `head`."""
        tasks = list(tasks)
        finders = {"encoder": lambda task: self.finetuned(task, mode), "head": self.head}
        return {kind: [task for task in tasks if not find(task)] for kind, find in finders.items()}

    def _first(self, endings: Iterable[str]) -> Path | None:
        """Return the first path with one of these endings: in the model's own folder, else in any folder of its name."""
        endings = list(endings)
        own = (self._models / self._model / ending for ending in endings)
        return next((path for path in own if path.is_file()), None) or next(
            (path for ending in endings for path in self._files if path.parts[-len(Path(ending).parts) :] == Path(ending).parts),
            None,
        )

    @cached_property
    def _files(self) -> list[Path]:
        """All files below folders of the model's name, those with the shortest paths first."""
        files, visited, names_of_model = [], set(), {self._model, mats.folder_of(self._model)}
        for folder, subfolders, names in os.walk(self._models, followlinks=True):
            is_own = not names_of_model.isdisjoint(Path(folder).relative_to(self._models).parts)
            visit = (is_own, os.path.realpath(folder))
            subfolders[:] = [name for name in subfolders if not name.startswith(".") and visit not in visited]
            if is_own and visit not in visited:
                files += [Path(folder, name) for name in names if not name.startswith(".")]
            visited.add(visit)
        return sorted(files, key=lambda path: (len(path.parts), path))


def finetuned_path(models: Path, model: str, task: str, mode: str = FILE_PREFIXES[0]) -> Path:
    """Return the path where this program writes the fine-tuned checkpoint of a task."""
    return models / model / f"{task}Val" / file_names(mode, "finetuned")[0]


def file_names(mode: str, kind: str = "finetuned") -> list[str]:
    """Return the file names of a kind of checkpoint, the preferred one first; the mode may be missing in the first mode's.

    kind: finetuned or zeroshot.
    """
    stems = [f"{mode}_{kind}"] + [kind] * (mode == FILE_PREFIXES[0])
    return [f"{stem}{ending}" for stem in stems for ending in ENDINGS.get(mode, SUFFIXES)]
