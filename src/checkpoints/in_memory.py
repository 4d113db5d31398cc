"""State dicts in memory, as Python programs have them: parameters, of any strides, on any device, tied or not."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from src.checkpoints.naming import spelled_like
from src.checkpoints.plain import check_plain
from src.errors import UserError, raise_any
from src.state_dict import Lazy, StateDict, outline


class ModelInMemory(Lazy):
    """The entries of a state dict in memory as merges read them: plain tensors without gradients, on one device.

    notes: sentences on how its names were read where they leave a choice.
    """

    notes: Sequence[str] = ()


def tensors_in_memory(name: str, entries: Mapping, device: torch.device) -> ModelInMemory:
    """Return a mapping of names to tensors as merges read it, on a device; nothing is copied that lies there.

    name: of the mapping, for messages.

    Raise UserError naming the entries that are no tensors with values.
    """
    if not isinstance(entries, Mapping):
        kind = type(entries).__name__
        raise UserError(f"{name} is a path or a state dict, such as module.state_dict(); got an object of {kind}")
    shapes = outline(entries)
    raise_any(
        f"the entry {key!r} of {name} is {problem}; give a mapping of names to plain tensors"
        for key, leaf in shapes.items()
        if (problem := _problem(key, leaf, is_computed=shapes is not entries))
    )
    return ModelInMemory(
        {key: leaf.detach().to("meta") for key, leaf in shapes.items()},
        lambda key: entries[key].detach().to(device).resolve_conj().resolve_neg(),
    )


def model_in_memory(name: str, entries: Mapping, device: torch.device, pretrained: StateDict | None = None) -> ModelInMemory:
    """As `tensors_in_memory`, of a model, under the names of `pretrained` if there is one, as files are read.

    Raise UserError, too, if the weights are quantised, or an adapter's.
    """
    model = tensors_in_memory(name, entries, device)
    check_plain(name, model)
    if pretrained is None:
        return model
    spelling = spelled_like(model, pretrained)
    if spelling.entries is model:
        return model
    spelled = ModelInMemory(outline(spelling.entries), spelling.entries.__getitem__)
    spelled.notes = [f"{name}: {note}" for note in spelling.notes]
    return spelled


def common_device(models: Sequence[Mapping], device: torch.device) -> torch.device:
    """Return where to read models in memory: `device`, to compute on, if all of their entries lie there, else the CPU."""
    places = {leaf.device for model in models for leaf in outline(model).values() if isinstance(leaf, Tensor)}
    return device if places == {device} else torch.device("cpu")


def _problem(key: object, leaf: object, is_computed: bool) -> str | None:
    """Return what keeps an entry from being read, in words; None if nothing does.

    is_computed: whether `leaf` stands for the shape and dtype alone.
    """
    if not isinstance(key, str):
        return "not named by text"
    if not isinstance(leaf, Tensor):
        return f"an object of {type(leaf).__name__}"
    if leaf.layout != torch.strided or leaf.is_quantized:
        return "sparse or quantised"
    return "on the meta device, without values" if leaf.is_meta and not is_computed else None
