"""What an adapter's folder holds, before it is matched to a model: settings, the factors of layers, and whole entries."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from src.checkpoints.peft.config import ADVICE, CONFIG, Settings, read_settings
from src.checkpoints.peft.layer import Layer
from src.checkpoints.reading import Checkpoint, open_files
from src.checkpoints.shards import ADAPTER
from src.errors import UserError, collect, raise_any, shorten
from src.state_dict import StateDict

WEIGHTS = (ADAPTER, "adapter_model.bin")
# Where peft adapts a whole MultiheadAttention, its output projection is a module inside the layer, and peft up to this
# version adds that projection's product twice, when it trains and when it merges.
INNER_PROJECTION = ".base_layer.out_proj"
LAST_VERSION_COUNTING_TWICE = (0, 21, 2)
INNER_MULTIPLICITY = 2

_WRAPPER = re.compile(r"\.(base_layer|modules_to_save)(?=\.|$)")
_FACTOR = re.compile(r"(.+)\.lora_((?:embedding_)?[AB]|magnitude_vector)(\.(?!(?:weight|bias)$)[^.]+)?(\.weight)?")


@dataclass(frozen=True)
class Adapter:
    """The contents of an adapter's folder, not yet matched to a model.

    files: weights and settings.
    layers: those with factors.
    replacements: whole entries, by the names of those they replace.
    """

    path: Path
    files: list[Path]
    settings: Settings
    layers: list[Layer]
    replacements: StateDict


def read_adapter(path: Path) -> Adapter:
    """Return the adapter in a folder. Raise UserError with all that is wrong with it."""
    problems: list[str] = []
    with collect(problems):
        settings = read_settings(path / CONFIG)
    with collect(problems):
        weights = open_weights(path)
    raise_any(problems)
    factors, replacements, faults = _split(weights)
    magnitude = {"magnitude_vector"} if settings.values.get("use_dora") else set()
    complete = ({"A", "B"} | magnitude, {"embedding_A", "embedding_B"} | magnitude)
    incomplete = [
        f"{module} has {', '.join(f'lora_{name}' for name in sorted(tensors))}"
        for module, tensors in factors.items()
        if set(tensors) not in complete
    ]
    is_empty = not factors and not replacements and not any(faults.values())
    faults[f"has layers without the pair of factors that {CONFIG} asks for"] = incomplete
    faults["holds no entries"] = [file.name for file in weights.files] if is_empty else []
    problems += [f"{path} {fault} ({shorten(names)}); copy it again, or {ADVICE}" for fault, names in faults.items() if names]
    with collect(problems):
        inner = _inner_projections(path, factors, str(settings.values.get("peft_version") or "0.0.0"))
    raise_any(problems)
    layers = [_make_layer(module, tensors, module in inner) for module, tensors in factors.items()]
    return Adapter(path, [*weights.files, path / CONFIG], settings, layers, replacements)


def open_weights(path: Path) -> Checkpoint:
    """Return the entries in an adapter's folder as they are. Raise UserError if there are none."""
    for name in WEIGHTS:
        if (path / name).exists():
            return open_files(path / name)
    raise UserError(f"{path} is an adapter without weights, {' or '.join(WEIGHTS)}; copy the whole folder again")


def _split(weights: StateDict) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor], dict[str, list[str]]]:
    """Return the factors by module path and kind, the whole entries by name, and the names of faulty entries by fault."""
    factors: dict[str, dict[str, Tensor]] = {}
    replacements, unknown, conflicting = {}, [], []
    for key, leaf in weights.items():
        name = key.removeprefix("base_model.model.")
        factor = _FACTOR.fullmatch(name)
        if ".original_module." in name:
            continue  # the untrained copy of a module to save, which bias="all" writes beside it
        if factor is None and "lora_" in name:
            unknown.append(key)
            continue
        table, entry = (factors.setdefault(factor[1], {}), factor[2]) if factor else (replacements, _WRAPPER.sub("", name))
        if entry in table and not torch.equal(table[entry], leaf):
            conflicting.append(key)
        table[entry] = leaf
    faults = {"holds entries of a kind that is not known here": unknown, "changes an entry in several ways": conflicting}
    return factors, replacements, faults


def _inner_projections(path: Path, modules: Collection[str], version: str) -> set[str]:
    """Return the output projections of attention modules that were adapted whole.

    Raise UserError if it is not known how often peft of this version adds their products.
    """
    inner = {
        module for module in modules if module.endswith(INNER_PROJECTION) and module.removesuffix(INNER_PROJECTION) in modules
    }
    if inner and not counts_twice(version):
        last = ".".join(map(str, LAST_VERSION_COUNTING_TWICE))
        raise UserError(
            f"{path} adapts MultiheadAttention with peft {version}: peft up to {last} adds the change of its out_proj "
            f"twice, and what later ones do is not known here; {ADVICE}"
        )
    return inner


def counts_twice(version: str) -> bool:
    """Whether peft of this version is known to add the product of an adapted attention's output projection twice."""
    numbers = re.match(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", version)
    return numbers is not None and tuple(map(int, numbers.groups())) <= LAST_VERSION_COUNTING_TWICE


def _make_layer(module_path: str, tensors: Mapping[str, Tensor], is_inner: bool) -> Layer:
    is_embedding = "embedding_A" in tensors
    down, up = (tensors[f"embedding_{letter}" if is_embedding else letter] for letter in "AB")
    return Layer(
        module_path=module_path,
        prefix=_WRAPPER.sub("", module_path) + ".",
        pattern_name=_WRAPPER.sub("", module_path.removesuffix(INNER_PROJECTION) if is_inner else module_path),
        multiplicity=INNER_MULTIPLICITY if is_inner else 1,
        down=down,
        up=up,
        magnitude=tensors.get("magnitude_vector"),
        transposed=is_embedding if is_embedding or is_inner or down.ndim > 2 else None,
    )
