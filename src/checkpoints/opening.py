"""Checkpoints by path, whatever lies there: weight files, shards, folders, tasks of a bundle, adapters."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from src.checkpoints.bundles import is_bundled_task, open_bundled_task
from src.checkpoints.naming import Spelling, spelled_like
from src.checkpoints.peft.config import CONFIG, IA3, adapter_kind
from src.checkpoints.peft.dense import adapter_folder, open_adapter
from src.checkpoints.peft.reading import open_weights
from src.checkpoints.plain import check_plain
from src.checkpoints.reading import Checkpoint, open_files
from src.checkpoints.shards import split_part
from src.errors import UserError, raise_any
from src.state_dict import StateDict, outline

PRETRAINED = "the pre-trained model"


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Return the checkpoint at a path: a `.safetensors` or `.pt` file, an index json, a folder that holds either,
    `PATH@PART`, one of several models in a file, or `BUNDLE/TASK`, the model of one task, rebuilt an entry at a time.

    Raise UserError as `open_files` does, and if the weights are quantised, or an adapter.
    """
    path = Path(path)
    if is_bundled_task(path):
        return open_bundled_task(path)
    checkpoint = open_files(path)
    check_plain(path, checkpoint, path if path.is_dir() else None)
    return checkpoint


def open_finetuned(
    path: str | os.PathLike,
    pretrained: StateDict,
    base_digest: str = "",
    spell: Callable[[StateDict], Spelling] | None = None,
) -> Checkpoint:
    """As `open_checkpoint`, under the names of `pretrained`; of a LoRA adapter of peft, a folder or the weight file in it,
    the model it makes of `pretrained`.

    base_digest: of `pretrained`; it becomes part of the cache key of weights that take entries from there.
    spell: returns weights, or the vectors of an (IA)^3 adapter of peft, under the names of `pretrained`; by default
        `spelled_like`, which knows no adapter's.
    """
    folder = adapter_folder(Path(path))
    if folder is not None and not (spell and adapter_kind(folder / CONFIG) == IA3):
        return open_adapter(folder, pretrained, base_digest)
    checkpoint = open_weights(folder) if folder else open_checkpoint(path)
    try:
        spelling = (spell or partial(spelled_like, model=pretrained))(checkpoint)
    except UserError as error:
        raise UserError(f"{path}: {problem}" for problem in error.problems) from error
    if spelling.entries is checkpoint:
        return checkpoint
    notes = [f"{path}: {note}" for note in spelling.notes]
    return checkpoint.view(spelling.entries, base_digest if spelling.is_filled else "", notes)


def repetitions(pretrained: Path | StateDict | None, finetuned: Mapping[str, Path | StateDict]) -> list[str]:
    """Return a sentence for each fine-tuned model whose file, or memory, is that of an earlier one, or of the pre-trained one.

    pretrained: a path or a state dict; None for a model that is not the user's.
    finetuned: paths or state dicts, by task.
    """
    first: dict[tuple, str] = {} if pretrained is None else {_identity(pretrained): PRETRAINED}
    notes = []
    for task, source in finetuned.items():
        other = first.setdefault(_identity(source), task)
        kind, place = ("file", f" ({source})") if isinstance(source, Path) else ("state dict", "")
        if other == PRETRAINED:
            notes.append(f"{task} is {PRETRAINED} itself{place}: its task vector is zero")
        elif other != task:
            notes.append(f"{task} is the same {kind} as {other}{place}: it counts once more")
    return notes


def _identity(source: Path | StateDict) -> tuple:
    """Return what two sources of one model have in common: the file and the part of it, whatever the file is called; of a
    state dict the memory of its entries, whatever holds them."""
    if not isinstance(source, Path):
        shapes = outline(source)
        return tuple(leaf.data_ptr() for leaf in shapes.values()) if shapes is source else (id(source),)
    file, part = split_part(source)
    if not file.exists():  # the task of a bundle
        return (os.path.realpath(file), part)
    return (file.stat().st_dev, file.stat().st_ino, part)


def open_all(
    paths: Mapping[str, str | os.PathLike], open_one: Callable[[Path], Checkpoint] = open_checkpoint
) -> dict[str, Checkpoint]:
    """Return checkpoints by name, each opened by `open_one`. Raise UserError with the problems of all that cannot be."""
    checkpoints, problems = {}, []
    for name, path in paths.items():
        try:
            checkpoints[name] = open_one(Path(path))
        except UserError as error:
            problems += error.problems
    raise_any(problems)
    return checkpoints
