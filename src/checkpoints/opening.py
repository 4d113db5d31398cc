"""Checkpoints by path, whatever lies there: weight files, shards, folders, tasks of a bundle, adapters."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from src.checkpoints.bundles import is_bundled_task, open_bundled_task
from src.checkpoints.peft.dense import adapter_folder, open_adapter
from src.checkpoints.reading import Checkpoint, open_files
from src.errors import UserError, raise_any
from src.state_dict import StateDict


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Return the checkpoint at a path: a `.safetensors` or `.pt` file, an index json, a folder that holds either, or
    `BUNDLE/TASK`, the model of one task, rebuilt from a bundle an entry at a time.

    Raise UserError as `open_files` does.
    """
    path = Path(path)
    return open_bundled_task(path) if is_bundled_task(path) else open_files(path)


def open_finetuned(path: str | os.PathLike, pretrained: StateDict, base_digest: str = "") -> Checkpoint:
    """As `open_checkpoint`; of a peft adapter, a folder or the weight file in it, the model it makes of `pretrained`.

    base_digest: of `pretrained`; it becomes part of the adapter's cache key, since another base makes another model of it.
    """
    folder = adapter_folder(Path(path))
    return open_checkpoint(path) if folder is None else open_adapter(folder, pretrained, base_digest)


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
