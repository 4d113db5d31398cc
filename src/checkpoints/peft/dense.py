"""The dense model that an adapter makes of a pre-trained one, an entry at a time."""

from pathlib import Path

import torch
from torch import Tensor

from src.checkpoints.peft.config import CONFIG
from src.checkpoints.peft.matching import match_adapter
from src.checkpoints.peft.reading import WEIGHTS, read_adapter
from src.checkpoints.reading import Checkpoint
from src.checkpoints.shards import FORMATS, INDEX
from src.errors import UserError
from src.state_dict import Lazy, StateDict, outline


def adapter_folder(path: Path) -> Path | None:
    """Return the folder of a peft adapter, of which `path` is that folder or the weight file in it; None if it is none.

    Raise UserError if the folder holds a whole model, too.
    """
    folder = path.parent if path.name in WEIGHTS else path
    if not (folder / CONFIG).is_file():
        return None
    models = [name for _, usual in FORMATS for name in (usual, f"{usual}{INDEX}") if (folder / name).exists()]
    if models and folder == path:
        adapter = next((name for name in WEIGHTS if (folder / name).exists()), WEIGHTS[0])
        raise UserError(f"{path} holds an adapter and a whole model; give {path / adapter} or {path / models[0]}")
    return folder


def open_adapter(path: Path, pretrained: StateDict, base_digest: str = "") -> Checkpoint:
    """Return the model that an adapter makes of `pretrained`: the same entries, each changed one computed when it is read.

    Sums are computed in float32 (float64 for float64) and rounded to the dtype of `pretrained`; entries that the adapter
    does not change are those of `pretrained`, not copies. The adapter's names may lack a prefix that those of
    `pretrained` have, or have one more.

    base_digest: of `pretrained`, as in `Checkpoint.view`.

    Raise UserError if the folder cannot be read, holds what is not known here, or does not fit.
    """
    path, shapes = Path(path), outline(pretrained)
    adapter = read_adapter(path)
    match = match_adapter(adapter, shapes)

    def entry(key: str) -> Tensor:
        before = after = pretrained[key]
        for edit in match.edits.get(key, ()):
            after = edit(after)
        if after.dtype == before.dtype:
            return after
        narrow = after.to(before.dtype)
        if not torch.isfinite(narrow).all() and torch.isfinite(after).all():
            raise UserError(f"{key} of {path} overflows {before.dtype}; give the pre-trained model in a wider dtype")
        return narrow

    checkpoint = Checkpoint(path, {file: {} for file in adapter.files}).view(Lazy(shapes, entry), base_digest)
    checkpoint.adapter = match.changes(shapes, adapter.settings.base_model)
    return checkpoint
