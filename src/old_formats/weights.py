"""State dicts out of whatever torch.save wrote: plain ones, wrapped ones, modules, linearized ones."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from src.errors import UserError
from src.old_formats.linearized import FINETUNED, is_linearized, named
from src.old_formats.modules import read_modules

WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_weights(path: Path, part: str = FINETUNED) -> Mapping[str, Tensor]:
    """The tensors in a file by name, mapped and not copied; of a linearized checkpoint one part (see `linearized`).

    Raises UserError if the file holds anything but tensors and modules, or cannot be read; nothing in it is executed.
    """
    try:
        loaded = _load(path)
    except UserError:
        raise
    except Exception as reason:  # torch and pickle raise a dozen kinds here, all of which mean an unreadable file
        said = (str(reason).splitlines() or [""])[0][:160]
        raise UserError(
            f"{path} cannot be read as a file of torch.save ({type(reason).__name__}: {said}): "
            "it is truncated or no such file; copy or download it again"
        ) from reason
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a dict of tensors")
    if is_linearized(loaded):
        try:
            return named(loaded, part)
        except ValueError as reason:
            raise UserError(f"{path} is a linearized checkpoint of no model that is known here: {reason}") from reason
    if part != FINETUNED:
        raise UserError(f"{path} is not linearized: it does not hold the model it started from; name that model's own file")
    strangers = [str(key) for key, leaf in loaded.items() if not isinstance(leaf, Tensor)]
    if strangers:
        raise UserError(f"{path} is not a dict of tensors only: {', '.join(strangers[:3])} are something else")
    return loaded


def _load(path: Path) -> object:
    """With torch's own reader if the file holds nothing but tensors, else with ours, which knows modules by name."""
    try:  # what torch wrote before 1.6 is no zip, and cannot be mapped
        return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception:  # its words for "this asks for more than tensors" change; ours are below, with the name asked for
        return read_modules(path)
