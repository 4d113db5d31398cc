"""Classification heads of CLIP: built from prompts (Radford et al., 2021), or the published ones, kept between runs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from src.checkpoints.opening import open_checkpoint
from src.checkpoints.reading import metadata_of
from src.checkpoints.writing import save_file
from src.errors import UserError, plural
from src.models.family import TaskLike


@dataclass(frozen=True)
class Heads:
    """The heads of all tasks: published ones, and ones built from prompts.

    folder: of those built from prompts.
    published: returns the file of a task's published head, None if there is none.
    source: `published`, `prompts`, or None for the published one where there is one.
    parity: whether the list of a class's synonyms is written into the prompt, as the code that made the published
        FER2013 head did, rather than averaged over.
    """

    folder: Path
    published: Callable[[str], Path | None]
    source: str | None
    parity: bool

    def __post_init__(self):
        if self.source not in (None, "published", "prompts"):
            raise UserError(f"heads.source is published, prompts or null; got {self.source}")
        if self.parity not in (True, False):
            raise UserError(f"heads.parity is true or false; got {self.parity}")

    def published_file(self, task: str) -> Path | None:
        """Return the path of the published head that will be used for a task; None if it is built from prompts."""
        path = None if self.source == "prompts" else self.published(task)
        return None if path and "made_from" in metadata_of(path) else path  # this program's own heads say what they follow from

    def weight(
        self, task: TaskLike, text_digest: Callable[[], str], build: Callable[[Sequence[Sequence[str]]], Tensor]
    ) -> Tensor:
        """Return a task's head, (classes, width).

        A head that was built before is read again if prompts and text tower are the same.

        text_digest: returns a digest of the text tower.
        build: returns a head, (classes, width), built from each class's prompts.
        """
        published = self.published_file(task.name)
        if published is not None:
            return _read_published(published, task)
        prompts = prompts_of(task, self.parity)
        provenance = json.dumps([text_digest(), prompts])
        path = self.folder / f"{task.name}.safetensors"
        if metadata_of(path).get("made_from") == provenance:
            return open_checkpoint(path)["weight"]
        weight = build(prompts)
        save_file({"weight": weight}, path, {"made_from": provenance})
        return weight


def prompts_of(task: TaskLike, parity: bool) -> list[list[str]]:
    """Return each class's prompts: every template with each of the class's names, or, for parity, with the list of them."""
    groups = []
    for names in task.classes:
        if isinstance(names, str):
            names = [names]
        elif parity:
            names = [str(list(names))]
        groups.append([template.format(name) for name in names for template in task.templates])
    return groups


@torch.no_grad()
def zero_shot_head(model: nn.Module, tokenize: Callable, prompts: Sequence[Sequence[str]], device: torch.device) -> Tensor:
    """Return a head, (classes, width).

    A row is the mean of the normalised features of a class's prompts, normalised again, times the logit scale.
    """
    rows = []
    for group in prompts:
        mean = model.encode_text(tokenize(list(group)).to(device), normalize=True).mean(0)
        rows.append(mean / mean.norm())
    return torch.stack(rows) * model.logit_scale.exp()


def _read_published(path: Path, task: TaskLike) -> Tensor:
    """Return a published head, (classes, width). Raise UserError where it is no head of this task."""
    entries = open_checkpoint(path)
    if "weight" not in entries or entries["weight"].ndim != 2:
        raise UserError(f"{path} is no classification head: it holds {', '.join(list(entries)[:3])} and not one weight matrix")
    weight = entries["weight"]
    if len(weight) != len(task.classes):
        raise UserError(
            f"{path} has {plural(len(weight), 'class')}, and {task.name} has {len(task.classes)}; use heads.source=prompts"
        )
    if "bias" in entries and entries["bias"].any():
        raise UserError(f"{path} has a bias, and heads of CLIP have none; use heads.source=prompts")
    return weight.float()
