"""What an adapter does to each entry of a model, once its names are taken for certain ones of the model's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from src.checkpoints.peft.config import WAY_OUT
from src.checkpoints.peft.layer import Layer
from src.checkpoints.peft.reading import Adapter
from src.errors import UserError, collect
from src.state_dict import StateDict

Edit = Callable[[Tensor], Tensor]
Naming = Callable[[str], str | None]  # the model's name for one of the adapter's, if it can have one


@dataclass(frozen=True)
class Fit:
    """edits: what happens to an entry, in order; missing: names the model lacks; misfits: sentences."""

    edits: dict[str, list[Edit]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)


def fitted(adapter: Adapter, shapes: StateDict, children: Mapping[str, list[str]], renamed: Naming) -> Fit:
    """children: the last parts of the model's names, by what is before them."""
    fit, settings = Fit(), adapter.settings
    for name, value in adapter.replaced.items():
        key = renamed(name)
        if key not in shapes:
            fit.missing.append(name)
        elif shapes[key].shape != value.shape:
            fit.misfits.append(f"{key} has shape {tuple(shapes[key].shape)}, and {tuple(value.shape)} in the adapter; {WAY_OUT}")
        elif shapes[key].is_floating_point() != value.is_floating_point():
            fit.misfits.append(f"{key} is {shapes[key].dtype}, and {value.dtype} in the adapter; {WAY_OUT}")
        else:
            fit.edits[key] = [lambda before, value=value: value.to(before.device)]
    placed: dict[str, tuple[Layer, Tensor]] = {}
    for layer in adapter.layers:
        targets = settings.targets(layer.start, children.get(renamed(layer.start), ()))
        if not targets:
            fit.missing.append(f"{layer.start}weight")
            continue
        with collect(fit.misfits):
            name, leaf = _place(layer, {name: shapes[renamed(name)] for name in targets})
            if name in placed:
                raise UserError(f"{layer.where} and {placed[name][0].where} both change {name}; {WAY_OUT}")
            placed[name] = layer, leaf
    for name, transposed in _turns(placed, flag=bool(settings.told.get("fan_in_fan_out"))).items():
        (layer, leaf), key = placed[name], renamed(name)
        with collect(fit.misfits):
            if transposed is None:
                raise UserError(f"{key} is square, and nothing tells which of its axes is the input's; {WAY_OUT}")
            pattern_name = name if settings.is_target(name) else layer.pattern_name
            scale = layer.multiplicity * settings.scale(pattern_name, layer.down.shape[0] // (layer.experts(leaf) or 1))
            fit.edits.setdefault(key, []).append(partial(layer.added, scale=scale, transposed=transposed))
    return fit


def _place(layer: Layer, leaves: StateDict) -> tuple[str, Tensor]:
    """The one of `leaves` that a layer's factors fit. Raises UserError if they fit none, or several."""
    fitting = [(name, leaf) for name, leaf in leaves.items() if layer.ways(leaf)]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(f"{name} ({tuple(leaf.shape)}, {leaf.dtype})" for name, leaf in leaves.items())
    how = "fit several" if fitting else "do not fit any"
    factors = f"{tuple(layer.up.shape)} and {tuple(layer.down.shape)}"
    raise UserError(f"the factors {factors} of {layer.where} {how} of {shown}; {WAY_OUT}")


def _turns(placed: Mapping[str, tuple[Layer, Tensor]], flag: bool) -> dict[str, bool | None]:
    """Whether each product is turned (see `Layer`), None where nothing tells. flag: what the settings say of it.

    Peft keeps the flag of the last layer alone, so squares go by it only where no other matrix belies it.
    """
    ways = {name: layer.ways(leaf) for name, (layer, leaf) in placed.items()}
    trusted = {name for name, (layer, leaf) in placed.items() if layer.transposed is None and not layer.experts(leaf)}
    if any(ways[name] == {not flag} for name in trusted):
        trusted = set()
    return {name: min(found) if len(found) == 1 else flag if name in trusted else None for name, found in ways.items()}
