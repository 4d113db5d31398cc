"""An adapter matched to a model: which of the model's entries its names mean, and what it does to each of them.

The adapter's own names come first; else its names may have one prefix more than the model's, or one less.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from src.checkpoints.factors import AdapterChanges
from src.checkpoints.peft.config import ADVICE
from src.checkpoints.peft.layer import Layer, Product
from src.checkpoints.peft.reading import Adapter
from src.errors import UserError, collect, plural, shorten
from src.state_dict import StateDict

Edit = Callable[[Tensor], Tensor]


class Renaming(NamedTuple):
    """A mapping from the adapter's names to the model's, by exchanging a prefix.

    drop: prefix that is removed from each name.
    add: prefix that is put in its stead.
    """

    drop: str = ""
    add: str = ""

    def __call__(self, name: str) -> str | None:
        """Return the model's name for one of the adapter's; None if it can have none."""
        return self.add + name.removeprefix(self.drop) if name.startswith(self.drop) else None


@dataclass(frozen=True)
class Match:
    """What an adapter does to a model under one renaming.

    edits: functions that change an entry, in order, by the model's names.
    missing: the adapter's names that the model lacks.
    misfits: sentences on what does not fit.
    """

    edits: dict[str, list[Edit]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)

    def changes(self, shapes: StateDict, base_model: str | None) -> AdapterChanges:
        """Return what the edits change of a model of these shapes, trained on the one of that name."""
        products = {key: edits[0] for key, edits in self.edits.items() if len(edits) == 1 and isinstance(edits[0], Product)}
        factors = {key: pair for key, product in products.items() if (pair := product.factors(shapes[key]))}
        return AdapterChanges(factors, frozenset(self.edits.keys() - factors.keys()), base_model)


def match_adapter(adapter: Adapter, shapes: StateDict) -> Match:
    """Return the one match of an adapter with a model of these shapes.

    Raise UserError if there is none, with what keeps the nearest one from fitting, or if there are several.
    """
    children: dict[str, list[str]] = {}
    for key in shapes:
        children.setdefault(_prefix(key), []).append(key.removeprefix(_prefix(key)))
    longest = max([*(layer.prefix for layer in adapter.layers), *map(_prefix, adapter.replacements)], key=len)
    matches = {renaming: _match_under(adapter, shapes, children, renaming) for renaming in _renamings(longest, children)}
    complete = {renaming: match for renaming, match in matches.items() if not match.missing and not match.misfits}
    if len(complete) == 1 or Renaming() in complete:
        return next(iter(complete.values()))
    if complete:
        raise UserError(
            f"{adapter.path}: {longest[:-1]} may be any of {len(complete)} layers of the pre-trained model, "
            f"{shorten([renaming(longest)[:-1] for renaming in complete])}; {ADVICE}"
        )
    nearest = min(matches.values(), key=lambda match: len(match.missing))
    problems = [f"{adapter.path} does not fit the pre-trained model: {misfit}" for misfit in nearest.misfits[:3]]
    if len(nearest.misfits) > 3:
        problems.append(f"{adapter.path} does not fit {plural(len(nearest.misfits) - 3, 'entry')} more; give the model it is of")
    if nearest.missing:
        problems.append(
            f"{adapter.path} changes {shorten(nearest.missing)}, which the pre-trained model has not, even with a prefix "
            f"more or less; its names are {shorten(list(shapes))}; give the model that the adapter was trained on, or {ADVICE}"
        )
    raise UserError(problems)


def _prefix(name: str) -> str:
    return name[: name.rfind(".") + 1]


def _renamings(longest: str, prefixes: Iterable[str]) -> Iterator[Renaming]:
    """Yield the renamings to try, the adapter's own names first.

    longest: prefix of the adapter's names.
    prefixes: of the model's names.
    """
    yield Renaming()
    yield from (Renaming(add=prefix.removesuffix(longest)) for prefix in prefixes if longest and prefix.endswith(f".{longest}"))
    yield from (Renaming(drop=longest[: dot.end()]) for dot in re.finditer(r"\.", longest))


def _match_under(adapter: Adapter, shapes: StateDict, children: Mapping[str, list[str]], renaming: Renaming) -> Match:
    """Return what an adapter does under one renaming.

    children: the last components of the model's names, by prefix.
    """
    match, settings = Match(), adapter.settings
    for name, value in adapter.replacements.items():
        key = renaming(name)
        if key not in shapes:
            match.missing.append(name)
        elif shapes[key].shape != value.shape:
            shape = tuple(shapes[key].shape)
            match.misfits.append(f"{key} has shape {shape}, and {tuple(value.shape)} in the adapter; {ADVICE}")
        elif shapes[key].is_floating_point() != value.is_floating_point():
            match.misfits.append(f"{key} is {shapes[key].dtype}, and {value.dtype} in the adapter; {ADVICE}")
        else:
            match.edits[key] = [lambda before, value=value: value.to(before.device)]
    targets: dict[str, tuple[Layer, Tensor]] = {}
    for layer in adapter.layers:
        candidates = settings.targets(layer.prefix, children.get(renaming(layer.prefix), ()))
        if not candidates:
            match.missing.append(f"{layer.prefix}weight")
            continue
        with collect(match.misfits):
            name, leaf = _target(layer, {name: shapes[renaming(name)] for name in candidates})
            if name in targets:
                raise UserError(f"{layer.module_path} and {targets[name][0].module_path} both change {name}; {ADVICE}")
            targets[name] = layer, leaf
    for name, transposed in _orientations(targets, bool(settings.values.get("fan_in_fan_out"))).items():
        (layer, leaf), key = targets[name], renaming(name)
        with collect(match.misfits):
            if transposed is None:
                raise UserError(f"{key} is square, and nothing tells which of its axes is the input's; {ADVICE}")
            pattern_name = name if settings.is_target(name) else layer.pattern_name
            scale = layer.multiplicity * settings.scale(pattern_name, layer.down.shape[0] // (layer.experts(leaf) or 1))
            match.edits.setdefault(key, []).append(Product(layer, scale, transposed))
    return match


def _target(layer: Layer, leaves: StateDict) -> tuple[str, Tensor]:
    """Return the one of `leaves` that a layer's factors fit. Raise UserError if they fit none, or several."""
    fitting = [(name, leaf) for name, leaf in leaves.items() if layer.orientations(leaf)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(f"{name} ({tuple(leaf.shape)}, {leaf.dtype})" for name, leaf in leaves.items())
    verb = "fit several" if fitting else "do not fit any"
    factors = f"{tuple(layer.up.shape)} and {tuple(layer.down.shape)}"
    raise UserError(f"the factors {factors} of {layer.module_path} {verb} of {names}; {ADVICE}")


def _orientations(targets: Mapping[str, tuple[Layer, Tensor]], flag: bool) -> dict[str, bool | None]:
    """Return whether each product is transposed (see `Layer`), None where nothing tells.

    flag: fan_in_fan_out of the settings. Peft saves that of the last layer only, so it decides for square matrices only
        where no other matrix contradicts it.
    """
    orientations = {name: layer.orientations(leaf) for name, (layer, leaf) in targets.items()}
    by_flag = {name for name, (layer, leaf) in targets.items() if layer.transposed is None and not layer.experts(leaf)}
    if any(orientations[name] == {not flag} for name in by_flag):
        by_flag = set()
    return {name: min(fits) if len(fits) == 1 else flag if name in by_flag else None for name, fits in orientations.items()}
