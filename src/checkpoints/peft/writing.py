"""Changes of a model written as an adapter: a folder that peft loads, under the names of the model."""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from src.checkpoints.factors import Factors, LayerKind
from src.checkpoints.peft.config import CONFIG, LORA
from src.checkpoints.peft.reading import INNER_MULTIPLICITY, INNER_PROJECTION, LAST_VERSION_COUNTING_TWICE
from src.checkpoints.shards import ADAPTER
from src.checkpoints.writing import IN_FOLDER, save_file
from src.runtime.files import folder_beside, write_json
from src.state_dict import Lazy, StateDict, outline

PREFIX = "base_model.model."
WEIGHT, PACKED, PROJECTION = ".weight", ".in_proj_weight", ".out_proj.weight"  # the latter two of a MultiheadAttention


@dataclass(frozen=True)
class Target:
    """Where peft keeps the factors of an entry.

    module: what it adapts, whose rank they have.
    path: the module's name in the adapter's file.
    multiplicity: how often it adds the product.
    """

    module: str
    path: str
    multiplicity: int = 1


def is_targetable(key: str) -> bool:
    """Whether peft adapts the module that an entry is the weight of, by its name: no parameters of their own."""
    return key.endswith((WEIGHT, PACKED))


def save_adapter(
    factors: Mapping[str, Factors],
    whole: StateDict,
    shapes: StateDict,
    folder: Path,
    base_model: str | None,
    metadata: Mapping[str, str],
) -> None:
    """Write changes of a model as an adapter's folder; it appears when it is complete.

    factors: of what is added to entries that are targetable.
    whole: further entries as they are after the change; peft loads them in place of the model's.
    shapes: the model's entries.
    base_model: the model's name, for peft to load it by.
    metadata: strings for the header of the weights.
    """
    targets, entries, ranks = {}, {}, {}
    for key, pair in _completed(factors, shapes).items():
        target = targets[key] = _target(key, shapes)
        ranks[target.module] = len(pair.down)
        entries |= _named(target, pair)
    adapted = [key.removesuffix(WEIGHT) for key in targets] + list(ranks)
    names = {PREFIX + _wrapped(key, adapted): key for key in whole}
    contents = {name: leaf.to("meta") for name, leaf in entries.items()}
    contents |= {name: outline(whole)[key] for name, key in names.items()}
    is_transposed = any(pair.kind is LayerKind.TRANSPOSED for pair in factors.values())
    with folder_beside(folder) as draft:
        lazy = Lazy(contents, lambda name: whole[names[name]] if name in names else entries[name])
        save_file(lazy, draft / ADAPTER, {**metadata, **IN_FOLDER})
        write_json(draft / CONFIG, _settings(ranks, is_transposed, bool(whole), base_model))


def _target(key: str, names: Container[str]) -> Target:
    attention = key.removesuffix(PACKED).removesuffix(PROJECTION)
    if key.endswith(PACKED):
        return Target(attention, attention)
    if key.endswith(PROJECTION) and attention + PACKED in names:
        return Target(attention, attention + INNER_PROJECTION, INNER_MULTIPLICITY)
    return Target(key.removesuffix(WEIGHT), key.removesuffix(WEIGHT))


def _completed(factors: Mapping[str, Factors], shapes: StateDict) -> dict[str, Factors]:
    """Return the factors with those of attention in pairs of one rank, as peft adapts it whole: zeros fill them up."""
    completed = dict(factors)
    for key, pair in factors.items():
        attention = _target(key, shapes).module
        names = [attention + PACKED, attention + PROJECTION]
        if key in names and names[0] in shapes:
            rank = max(len(factors[name].down) for name in names if name in factors)
            completed |= {name: _padded(factors.get(name), shapes[name], rank, pair.up.dtype) for name in names}
    return completed


def _padded(pair: Factors | None, leaf: Tensor, rank: int, dtype: torch.dtype) -> Factors:
    if pair is not None and len(pair.down) == rank:
        return pair
    up, down = torch.zeros(leaf.shape[0], rank, dtype=dtype), torch.zeros(rank, leaf.shape[1], dtype=dtype)
    if pair is not None:
        up[:, : len(pair.down)], down[: len(pair.down)] = pair.up * pair.scale, pair.down
    return Factors(up, down)


def _named(target: Target, pair: Factors) -> dict[str, Tensor]:
    """Return factors by their names in the adapter's file, in peft's orientation, their product scaled by 1."""
    up, down = pair.up * (pair.scale / target.multiplicity), pair.down
    down, up = (down, up) if pair.kind is LayerKind.LINEAR else (up.mT, down.mT)
    first, second = ("embedding_A", "embedding_B") if pair.kind is LayerKind.EMBEDDING else ("A.weight", "B.weight")
    return {f"{PREFIX}{target.path}.lora_{first}": down, f"{PREFIX}{target.path}.lora_{second}": up}


def _wrapped(key: str, adapted: Container[str]) -> str:
    """Return the name that an entry has in a model whose modules `adapted` are wrapped by peft."""
    *modules, last = key.split(".")
    name, path = [], ""
    for module in modules:
        path = f"{path}.{module}".removeprefix(".")
        name += [module, "base_layer"] if path in adapted else [module]
    return ".".join([*name, last])


def _settings(ranks: Mapping[str, int], is_transposed: bool, has_whole: bool, base_model: str | None) -> dict:
    """Return the adapter's settings: by them each module's alpha is its rank.

    ranks: by module.
    has_whole: whether entries come whole, as peft itself keeps biases.
    """
    largest = max(ranks.values(), default=1)
    others = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != largest}
    return {
        "peft_type": LORA,
        "peft_version": ".".join(map(str, LAST_VERSION_COUNTING_TWICE)),
        "base_model_name_or_path": base_model,
        "task_type": None,
        "inference_mode": True,
        "target_modules": "|".join(map(re.escape, ranks)),
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "all" if has_whole else "none",
        "fan_in_fan_out": is_transposed,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }
