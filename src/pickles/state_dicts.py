"""State dicts out of whatever torch.save wrote: plain ones, wrapped ones, modules, linearized ones."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from src.errors import UserError
from src.pickles.archives import check_archive, is_archive
from src.pickles.linearized import FINETUNED, MODEL_NAME, REFERENCE, is_linearized, named
from src.pickles.modules import read_modules

WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """The tensors in a file by name, mapped and not copied; of a linearized checkpoint the fine-tuned ones.

    Raises UserError if the file holds anything but tensors and modules, or cannot be read; nothing in it is executed.
    """
    loaded = _entries(path)
    return _named(path, loaded, FINETUNED) if is_linearized(loaded) else loaded


def read_tangent_pair(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor] | None]:
    """As `read_weights`, and the model that a linearized checkpoint is linear around; None for any other."""
    loaded = _entries(path)
    if not is_linearized(loaded):
        return loaded, None
    return _named(path, loaded, FINETUNED), _named(path, loaded, REFERENCE)


def _named(path: Path, loaded: Mapping[str, object], part: str) -> Mapping[str, Tensor]:
    try:
        return named(loaded, part)
    except ValueError as reason:
        raise UserError(f"{path} is a linearized checkpoint of no model that is known here: {reason}") from reason


def _entries(path: Path) -> Mapping[str, object]:
    """Tensors by name, and of a linearized checkpoint the model's name among them."""
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
    size, linearized = path.stat().st_size, is_linearized(loaded)
    found = (invalid_reason(key, leaf, size) for key, leaf in loaded.items() if not (linearized and key == MODEL_NAME))
    strangers = [each for each in found if each]
    if strangers:
        raise UserError(
            f"{path} is not a dict of tensors only: {', '.join(strangers[:3])}; save a plain state dict: "
            "torch.save(model.state_dict(), ...)"
        )
    return loaded


def _load(path: Path) -> object:
    """With torch's own reader if the file holds nothing but tensors, else with ours, which knows modules by name."""
    zipped = is_archive(path)
    if zipped:
        check_archive(path)  # before torch, which inflates what it is given
    try:  # what torch wrote before 1.6 is no zip, and cannot be mapped
        return torch.load(path, map_location="cpu", mmap=zipped, weights_only=True)
    except Exception:  # its words for "this asks for more than tensors" change; ours are below, with the name asked for
        return read_modules(path)


def invalid_reason(key: object, leaf: object, size: int) -> str | None:
    """What is wrong with an entry of a file of so many bytes; None for a tensor with values, in memory or mapped.

    A stride of zero lets one number stand for any count of them, and whoever then computes with the tensor runs out of memory.
    """
    if not isinstance(key, str):
        return f"{key!r} (a {type(key).__name__} for a name)"
    if not isinstance(leaf, Tensor):
        return f"{key} (a {type(leaf).__name__})"
    if leaf.is_meta or leaf.device.type != "cpu":
        return f"{key} (without values, on the device {leaf.device})"
    if leaf.layout != torch.strided or leaf.is_nested or leaf.is_quantized:
        return f"{key} (sparse, nested or quantized)"
    if leaf.numel() * leaf.element_size() > size:
        return f"{key} (of shape {tuple(leaf.shape)}, which is more than the whole file)"
    return None
