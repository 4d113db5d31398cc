"""An adapter's folder as it is, before it is held against a model: settings, the factors of layers, and whole entries."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from src.checkpoints.peft.config import CONFIG, WAY_OUT, Settings, read_settings
from src.checkpoints.peft.layer import Layer
from src.checkpoints.reading import Checkpoint, open_files
from src.checkpoints.shards import ADAPTER
from src.errors import UserError, collect, raise_any, shorten
from src.state_dict import StateDict

WEIGHTS = (ADAPTER, "adapter_model.bin")
INNER = ".base_layer.out_proj"  # how the path of MultiheadAttention's projection ends where peft adapts the whole module
COUNTED_TWICE = (0, 21, 2)  # peft up to this one adds that projection's product twice, when it trains and when it merges
MULTIPLICITY = 2

_NESTED = re.compile(r"\.(base_layer|modules_to_save)(?=\.|$)")
_FACTOR = re.compile(r"(.+)\.lora_((?:embedding_)?[AB]|magnitude_vector)(\.(?!(?:weight|bias)$)[^.]+)?(\.weight)?")


@dataclass(frozen=True)
class Adapter:
    """What a folder holds. replaced: whole entries by their names."""

    path: Path
    files: list[Path]
    settings: Settings
    layers: list[Layer]
    replaced: StateDict


def read_adapter(path: Path) -> Adapter:
    """Raises UserError with all that is wrong with the folder."""
    problems: list[str] = []
    with collect(problems):
        settings = read_settings(path / CONFIG)
    with collect(problems):
        weights = _weights(path)
    raise_any(problems)
    factors, replaced, wrong = _taken_apart(weights)
    lengths = {"magnitude_vector"} if settings.told.get("use_dora") else set()
    whole = ({"A", "B"} | lengths, {"embedding_A", "embedding_B"} | lengths)
    odd = [f"{where}: {', '.join(sorted(parts))}" for where, parts in factors.items() if set(parts) not in whole]
    wrong["lacks factors of a layer, or holds other ones than its settings ask for"] = odd
    wrong["holds no entries"] = [] if factors or replaced or any(wrong.values()) else [file.name for file in weights.files]
    problems += [f"{path} {said} ({shorten(names)}); copy it again, or {WAY_OUT}" for said, names in wrong.items() if names]
    with collect(problems):
        inner = _inner(path, factors, str(settings.told.get("peft_version") or "0.0.0"))
    raise_any(problems)
    layers = [_layer(where, parts, where in inner) for where, parts in factors.items()]
    return Adapter(path, [*weights.files, path / CONFIG], settings, layers, replaced)


def _weights(path: Path) -> Checkpoint:
    for name in WEIGHTS:
        if (path / name).exists():
            return open_files(path / name)
    raise UserError(f"{path} is an adapter without weights, {' or '.join(WEIGHTS)}; copy the whole folder again")


def _taken_apart(weights: StateDict) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor], dict[str, list[str]]]:
    """The factors by layer and kind, the whole entries by name, and the names of wrong entries by what is wrong."""
    factors: dict[str, dict[str, Tensor]] = {}
    replaced, unknown, twice = {}, [], []
    for key, leaf in weights.items():
        name = key.removeprefix("base_model.model.")
        factor = _FACTOR.fullmatch(name)
        if ".original_module." in name:
            continue  # what an entry to save was at first, which bias="all" writes beside it
        if factor is None and "lora_" in name:
            unknown.append(key)
            continue
        place, part = (factors.setdefault(factor[1], {}), factor[2]) if factor else (replaced, _NESTED.sub("", name))
        if part in place and not torch.equal(place[part], leaf):
            twice.append(key)
        place[part] = leaf
    wrong = {"holds entries of a kind that is not known here": unknown, "changes an entry in several ways": twice}
    return factors, replaced, wrong


def _inner(path: Path, places: Collection[str], version: str) -> set[str]:
    """The projections of attention that was adapted whole. Raises UserError if it is not known how often peft counts them."""
    inner = {where for where in places if where.endswith(INNER) and where.removesuffix(INNER) in places}
    if inner and not counts_twice(version):
        raise UserError(
            f"{path} adapts MultiheadAttention with peft {version}: peft up to {'.'.join(map(str, COUNTED_TWICE))} adds the "
            f"change of its out_proj twice, and what later ones do is not known here; {WAY_OUT}"
        )
    return inner


def counts_twice(version: str) -> bool:
    """Whether peft of this version is known to count an adapted attention's output projection twice."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return numbers is not None and tuple(map(int, numbers.groups())) <= COUNTED_TWICE


def _layer(where: str, parts: Mapping[str, Tensor], inner: bool) -> Layer:
    embedding = "embedding_A" in parts
    down, up = (parts[f"embedding_{part}" if embedding else part] for part in "AB")
    return Layer(
        where=where,
        start=_NESTED.sub("", where) + ".",
        pattern_name=_NESTED.sub("", where.removesuffix(INNER) if inner else where),
        multiplicity=MULTIPLICITY if inner else 1,
        down=down,
        up=up,
        magnitude=parts.get("magnitude_vector"),
        transposed=embedding if embedding or inner or down.ndim > 2 else None,
    )
