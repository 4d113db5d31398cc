"""Adapter folders of peft as the dense models they stand for: LoRA (Hu et al., 2022) and DoRA (Liu et al., 2024).

What an adapter stands for is what peft computes with it in training, and keeps in `merge_and_unload`.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from src.checkpoints import Checkpoint, open_checkpoint
from src.errors import UserError, raise_any
from src.state_dict import Lazy, StateDict, outline, working_dtype

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
WAY_OUT = "merge it with peft's merge_and_unload, save the model, and give that folder"
NAMED = 3  # of many names, as many as a sentence holds

# A setting that is on and is not among these changes what the factors mean, or may for all we know.
UNDERSTOOD = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "target_parameters", "task_type",
    "unsloth_fixed", "use_dora", "use_rslora",
}  # fmt: skip
SILENT = {"r": 8, "lora_alpha": 8}  # what holds where the settings do not say
MOVES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")  # ways to start that take the first product out of the weights

INNER = ".base_layer.out_proj"  # how the path of MultiheadAttention's projection ends where peft adapts the whole module
COUNTED_TWICE = (0, 21, 2)  # peft up to this one adds that projection's product twice, when it trains and when it merges

_NESTED = re.compile(r"\.(base_layer|modules_to_save)(?=\.|$)")
_FACTOR = re.compile(r"(.+)\.lora_((?:embedding_)?[AB]|magnitude_vector)(\.(?!(?:weight|bias)$)[^.]+)?(\.weight)?")

Edit = Callable[[Tensor], Tensor]
Rename = tuple[str, str]  # what is dropped from the start of each name, and what is put there


def is_adapter(path: Path) -> bool:
    """Whether a folder is a peft adapter."""
    return (path / CONFIG).is_file()


def open_over(path: Path, pretrained: StateDict, made_with: str = "") -> Checkpoint:
    """A checkpoint, or the model that an adapter, a folder or the weight file in it, makes of `pretrained`."""
    folder = path.parent if path.name in WEIGHTS else path
    return open_adapter(folder, pretrained, made_with) if is_adapter(folder) else open_checkpoint(path)


def open_adapter(path: Path, pretrained: StateDict, made_with: str = "") -> Checkpoint:
    """The model that an adapter makes of `pretrained`: the same entries, a changed one computed when it is asked for.

    Sums are in float32 (float64 for float64) and take the dtype of `pretrained`; entries that are not changed are its own.
    The adapter's names may lack a prefix that those of `pretrained` have, or have one more. made_with: as in
    `Checkpoint.renamed`. Raises UserError if the folder cannot be read, holds what is not known here, or does not fit.
    """
    path, shapes = Path(path), outline(pretrained)
    adapter = _read(path)
    edits = _best(adapter, shapes).edits

    def entry(key: str) -> Tensor:
        before = after = pretrained[key]
        for edit in edits.get(key, ()):
            after = edit(after)
        if after.dtype == before.dtype:
            return after
        narrow = after.to(before.dtype)
        if not torch.isfinite(narrow).all() and torch.isfinite(after).all():
            raise UserError(f"{key} of {path} overflows {before.dtype}; give the pre-trained model in a wider dtype")
        return narrow

    files = Checkpoint(path, {file: {} for file in (*adapter.files, path / CONFIG)})
    return files.renamed(Lazy(shapes, entry), made_with)


@dataclass(frozen=True)
class _Layer:
    """The factors of a layer of which peft says it is at `where`, and whose entries' names begin with `start`.

    down: (rank, *inputs); up: (outputs, rank, 1...); magnitude: one an output, of DoRA; times: how often the product counts.
    turned: whether entries are (inputs, outputs) instead of (outputs, *inputs); None if their shape has to tell.
    """

    where: str
    start: str
    down: Tensor
    up: Tensor
    magnitude: Tensor | None
    turned: bool | None
    times: int

    def experts(self, leaf: Tensor) -> int:
        """How many matrices an entry stacks, each with factors of its own; 0 if it is no stack."""
        return leaf.shape[0] if leaf.ndim == 3 and self.down.ndim == 2 else 0

    def ways(self, leaf: Tensor) -> set[bool]:
        """The values of `turned` under which the product has the shape of `leaf`."""
        if self.down.ndim < 2 or self.up.ndim < 2 or not leaf.is_floating_point():
            return set()
        (rank, *inputs), outputs, experts = self.down.shape, self.up.shape[0], self.experts(leaf)
        if not rank or self.up.shape[1] != rank or self.up.numel() != outputs * rank or (experts and rank % experts):
            return set()
        if self.magnitude is not None and (experts or self.magnitude.numel() != outputs):
            return set()
        shape = list(leaf.shape[1:] if experts else leaf.shape)
        fitting = {way for way, fits in ((False, [outputs, *inputs]), (True, [*inputs, outputs])) if shape == fits}
        return fitting if self.turned is None else fitting & {self.turned}

    def added(self, before: Tensor, scale: float, turned: bool) -> Tensor:
        """An entry plus `scale` times the product; of DoRA, with the weights of each output at their length."""
        wide, experts = working_dtype(before.dtype), self.experts(before)
        down, up = (factor.to(device=before.device, dtype=wide).flatten(1) for factor in (self.down, self.up))
        if self.magnitude is None and not (down.any() and up.any()):
            return before
        if experts:
            down, up = down.reshape(experts, -1, down.shape[1]), up.reshape(up.shape[0], -1, experts).permute(2, 0, 1)
        product = down.mT @ up.mT if turned else up @ down
        total = product.mul_(scale).reshape(before.shape).add_(before)
        if self.magnitude is not None:
            rows = total.T if turned else total.flatten(1)  # a view, an output each
            lengths = self.magnitude.to(device=before.device, dtype=wide).reshape(-1, 1)
            rows.mul_(lengths / torch.linalg.norm(rows, dim=1, keepdim=True))
        return total


@dataclass(frozen=True)
class _Adapter:
    """What a folder holds. replaced: whole entries by their names."""

    path: Path
    files: list[Path]
    settings: Mapping[str, object]
    layers: list[_Layer]
    replaced: StateDict

    def targets(self, layer: _Layer, children: Iterable[str]) -> list[str]:
        """Which of a layer's entries it may change: parameters that the settings name, else its weight."""
        names = [layer.start + child for child in children]
        weights = [layer.start + child for child in ("weight", "in_proj_weight")]
        return list(filter(self._is_targeted, names)) or [name for name in weights if name in names][:1]

    def scale(self, layer: _Layer, name: str, rank: int) -> float:
        """What a layer's product counts. Raises UserError if the settings give it another rank, or several factors."""
        module = _NESTED.sub("", layer.where.removesuffix(INNER) if layer.times > 1 else layer.where)
        called = name if self._is_targeted(name) else module
        ranks, alphas = self._told("rank_pattern", called, "r"), self._told("alpha_pattern", called, "lora_alpha")
        if rank not in ranks:
            raise UserError(f"{called} has rank {rank}, and {ranks} in {CONFIG}; copy both files of one training again")
        if len(set(alphas)) > 1:  # the first would count, but peft sorts them when it writes
            raise UserError(
                f"{called} has several factors by the alpha_pattern in {CONFIG}, {alphas}; leave the one that was meant"
            )
        return layer.times * alphas[0] / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def _is_targeted(self, name: str) -> bool:
        return any(f".{name}".endswith(f".{target}") for target in self.settings.get("target_parameters") or ())

    def _told(self, patterns: str, called: str, default: str) -> list[float]:
        table = self.settings[patterns].items()
        return [value for key, value in table if re.fullmatch(rf"(?:.*\.)?(?:{key})", called)] or [self.settings[default]]


def _read(path: Path) -> _Adapter:
    """A folder as it is, before it is held against a model. Raises UserError with all that is wrong with it."""
    read, problems = {}, []
    for what, reading in (("settings", partial(_settings, path / CONFIG)), ("weights", partial(_weights, path))):
        try:
            read[what] = reading()
        except UserError as reason:
            problems += reason.problems
    raise_any(problems)
    return _taken_apart(path, read["settings"], read["weights"])


def _taken_apart(path: Path, settings: Mapping[str, object], weights: Checkpoint) -> _Adapter:
    factors: dict[str, dict[str, Tensor]] = {}
    replaced, unknown, twice, problems = {}, [], [], []
    for key, leaf in weights.items():
        name = key.removeprefix("base_model.model.")
        factor = _FACTOR.fullmatch(name)
        if ".original_module." in name:
            continue  # what an entry to save was at first, which bias="all" writes beside it
        if factor is None and "lora_" in name:
            unknown.append(key)
            continue
        place, part = (factors.setdefault(factor[1], {}), factor[2]) if factor else (replaced, _NESTED.sub("", name))
        twice += [key] if part in place and not torch.equal(place[part], leaf) else []
        place[part] = leaf
    lengths = {"magnitude_vector"} if settings.get("use_dora") else set()
    whole = ({"A", "B"} | lengths, {"embedding_A", "embedding_B"} | lengths)
    odd = [f"{where}: {', '.join(sorted(parts))}" for where, parts in factors.items() if set(parts) not in whole]
    for names, said in (
        (unknown, "holds entries of a kind that is not known here"), (twice, "changes an entry in several ways"),
        (odd, "lacks factors of a layer, or holds other ones than its settings ask for"),
        ([] if weights else [file.name for file in weights.files], "holds no entries"),
    ):  # fmt: skip
        problems += [f"{path} {said} ({_listed(names)}); copy it again, or {WAY_OUT}"] if names else []
    inner = {where for where in factors if where.endswith(INNER) and where.removesuffix(INNER) in factors}
    version = re.match(r"(\d+)\.(\d+)\.(\d+)", str(settings.get("peft_version") or "0.0.0"))
    if inner and (version is None or tuple(map(int, version.groups())) > COUNTED_TWICE):
        known = ".".join(map(str, COUNTED_TWICE))
        problems.append(
            f"{path} adapts MultiheadAttention with peft {settings['peft_version']}: peft up to {known} adds the change of its "
            f"out_proj twice, and what later ones do is not known here; {WAY_OUT}"
        )
    raise_any(problems)
    layers = [_layer(where, parts, where in inner) for where, parts in factors.items()]
    return _Adapter(path, weights.files, settings, layers, replaced)


def _settings(file: Path) -> dict[str, object]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise UserError(f"{file} cannot be read as json ({reason}); copy the adapter again") from reason
    kind = told.get("peft_type") if isinstance(told, dict) else type(told).__name__
    if kind != "LORA":
        raise UserError(f"{file} is of the kind {kind}, and only LORA is read here; {WAY_OUT}")
    settings = {**SILENT, **told, **{table: told.get(table) or {} for table in ("rank_pattern", "alpha_pattern")}}
    start, problems = str(settings.get("init_lora_weights")).lower(), []
    if start.startswith(MOVES_BASE):
        problems.append(f"{file}: init_lora_weights={start} changes the weights that the factors are added to; {WAY_OUT}")
    strange = [f"{name}={value!r}" for name, value in settings.items() if value and name not in UNDERSTOOD]
    if strange:
        problems.append(f"{file} sets what is not known here: {_listed(strange)}; {WAY_OUT}")
    try:
        patterns = [pair for table in ("rank_pattern", "alpha_pattern") for pair in settings[table].items()]
        for name, value in [*patterns, *((name, settings[name]) for name in SILENT)]:
            re.compile(name)
            if type(value) not in (int, float) or not math.isfinite(value):
                raise TypeError(f"{name} is {value!r}")
    except (re.error, TypeError, AttributeError) as reason:
        problems.append(f"{file}: {', '.join(SILENT)} and their patterns have to be numbers ({reason}); copy the adapter again")
    raise_any(problems)
    return settings


def _weights(path: Path) -> Checkpoint:
    for name in WEIGHTS:
        if (path / name).exists():
            return open_checkpoint(path / name)
    raise UserError(f"{path} is an adapter without weights, {' or '.join(WEIGHTS)}; copy the whole folder again")


def _layer(where: str, parts: Mapping[str, Tensor], inner: bool) -> _Layer:
    embedding = "embedding_A" in parts
    down, up = (parts[f"embedding_{part}" if embedding else part] for part in "AB")
    turned = embedding if embedding or inner or down.ndim > 2 else None
    return _Layer(where, _NESTED.sub("", where) + ".", down, up, parts.get("magnitude_vector"), turned, 2 if inner else 1)


@dataclass(frozen=True)
class _Fit:
    """What an adapter does to each entry, under one naming. missing: names the model lacks; misfits: sentences."""

    edits: dict[str, list[Edit]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)


def _best(adapter: _Adapter, shapes: StateDict) -> _Fit:
    """The one naming under which an adapter fits: its own names, else one prefix more or one less.

    Raises UserError if there is none, with what keeps the nearest from fitting, and if there are several.
    """
    children: dict[str, list[str]] = {}
    for key in shapes:
        start = key[: key.rfind(".") + 1]
        children.setdefault(start, []).append(key.removeprefix(start))
    starts = [*(layer.start for layer in adapter.layers), *(name[: name.rfind(".") + 1] for name in adapter.replaced)]
    longest = max(starts, key=len)
    fits = {rename: _fit(adapter, shapes, children, rename) for rename in _renames(longest, children)}
    whole = {rename: fit for rename, fit in fits.items() if not fit.missing and not fit.misfits}
    if len(whole) == 1 or ("", "") in whole:
        return whole.get(("", "")) or next(iter(whole.values()))
    if whole:
        raise UserError(
            f"{adapter.path}: {longest[:-1]} may be any of {len(whole)} layers of the pre-trained model, "
            f"{_listed([_renamed(longest, rename)[:-1] for rename in whole])}; {WAY_OUT}"
        )
    nearest = min(fits.values(), key=lambda fit: len(fit.missing))
    problems = [f"{adapter.path} does not fit the pre-trained model: {said}" for said in nearest.misfits[:NAMED]]
    if len(nearest.misfits) > NAMED:
        problems.append(f"{adapter.path} does not fit {len(nearest.misfits) - NAMED} entries more; give the model it is of")
    if nearest.missing:
        problems.append(
            f"{adapter.path} changes {_listed(nearest.missing)}, and the pre-trained model has no such names, with no one prefix "
            f"more or less; it has {_listed(list(shapes))}; give the model that the adapter was trained on, or {WAY_OUT}"
        )
    raise UserError(problems)


def _renames(longest: str, starts: Iterable[str]) -> Iterator[Rename]:
    yield "", ""
    yield from (("", start.removesuffix(longest)) for start in starts if longest and start.endswith(f".{longest}"))
    yield from ((longest[: dot.end()], "") for dot in re.finditer(r"\.", longest))


def _renamed(name: str, rename: Rename) -> str | None:
    drop, add = rename
    return add + name.removeprefix(drop) if name.startswith(drop) else None


def _fit(adapter: _Adapter, shapes: StateDict, children: Mapping[str, list[str]], rename: Rename) -> _Fit:
    """children: the last parts of the model's names, by what is before them."""
    fit = _Fit()
    for name, value in adapter.replaced.items():
        key = _renamed(name, rename)
        if key not in shapes:
            fit.missing.append(name)
        elif shapes[key].shape != value.shape:
            fit.misfits.append(f"{key} has shape {tuple(shapes[key].shape)}, and {tuple(value.shape)} in the adapter; {WAY_OUT}")
        else:
            fit.edits[key] = [lambda before, value=value: value.to(before.device)]
    found: dict[str, tuple[_Layer, str, set[bool]]] = {}
    for layer in adapter.layers:
        names = adapter.targets(layer, children.get(_renamed(layer.start, rename), ()))
        leaves = {name: shapes[_renamed(name, rename)] for name in names}
        fitting = [name for name, leaf in leaves.items() if layer.ways(leaf)]
        if not names:
            fit.missing.append(f"{layer.start}weight")
        elif len(fitting) != 1:
            shown = ", ".join(f"{name} ({tuple(leaf.shape)}, {leaf.dtype})" for name, leaf in leaves.items())
            factors = f"{tuple(layer.up.shape)} and {tuple(layer.down.shape)}"
            how = "fit several" if fitting else "do not fit any"
            fit.misfits.append(f"the factors {factors} of {layer.where} {how} of {shown}; {WAY_OUT}")
        elif _renamed(fitting[0], rename) in found:
            other = found[_renamed(fitting[0], rename)][0].where
            fit.misfits.append(f"{layer.where} and {other} both change {fitting[0]}; {WAY_OUT}")
        else:
            found[_renamed(fitting[0], rename)] = layer, fitting[0], layer.ways(leaves[fitting[0]])
    flag = bool(adapter.settings.get("fan_in_fan_out"))
    plain = [ways for key, (layer, _, ways) in found.items() if layer.turned is None and shapes[key].ndim == 2]
    told = {flag}.union(*(ways for ways in plain if len(ways) == 1))
    for key, (layer, name, ways) in found.items():
        experts = layer.experts(shapes[key])
        if len(ways) > 1 and (experts or len(told) > 1):
            fit.misfits.append(f"{key} is square, and nothing tells which of its axes is the input's; {WAY_OUT}")
            continue
        try:
            scale = adapter.scale(layer, name, layer.down.shape[0] // (experts or 1))
        except UserError as reason:
            fit.misfits.extend(reason.problems)
            continue
        turned = flag if len(ways) > 1 else min(ways)
        fit.edits.setdefault(key, []).append(partial(layer.added, scale=scale, turned=turned))
    return fit


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
