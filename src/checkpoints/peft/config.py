"""The settings of an adapter's training: which are understood, which entries they target, and what a product counts."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError, raise_any, shorten

CONFIG = "adapter_config.json"
WAY_OUT = "merge it with peft's merge_and_unload, save the model, and give that folder"

# A setting that is on and is not among these changes what the factors mean, or may for all we know.
UNDERSTOOD = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "target_parameters", "task_type",
    "unsloth_fixed", "use_dora", "use_rslora",
}  # fmt: skip
SILENT = {"r": 8, "lora_alpha": 8}  # what holds where the settings do not say
TABLES = ("rank_pattern", "alpha_pattern")  # other values of these, each by a pattern of the names it is for
MOVES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")  # ways to start that take the first product out of the weights


@dataclass(frozen=True)
class Settings:
    """told: what the file says, under peft's names."""

    told: Mapping[str, Any]

    def is_target(self, name: str) -> bool:
        """Whether a parameter was adapted by its own name."""
        return any(f".{name}".endswith(f".{target}") for target in self.told.get("target_parameters") or ())

    def targets(self, start: str, children: Iterable[str]) -> list[str]:
        """Which of a layer's entries its factors may change: parameters that were targeted, else its weight."""
        names = [start + child for child in children]
        weights = [start + child for child in ("weight", "in_proj_weight")]
        return list(filter(self.is_target, names)) or [name for name in weights if name in names][:1]

    def scale(self, pattern_name: str, rank: int) -> float:
        """What the product of a module or parameter counts. Raises UserError if it has another rank, or several factors."""
        ranks, alphas = self._values("rank_pattern", pattern_name, "r"), self._values("alpha_pattern", pattern_name, "lora_alpha")
        if rank not in ranks:
            raise UserError(f"{pattern_name} has rank {rank}, and {ranks} in {CONFIG}; copy both files of one training again")
        if len(set(alphas)) > 1:  # the first would count, but peft sorts them when it writes
            said = f"{pattern_name} has several factors by the alpha_pattern in {CONFIG}, {alphas}; leave the one that was meant"
            raise UserError(said)
        return alphas[0] / (math.sqrt(rank) if self.told.get("use_rslora") else rank)

    def _values(self, table: str, pattern_name: str, otherwise: str) -> list[float]:
        patterns = self.told[table].items()
        return [value for key, value in patterns if _at_the_end(key).fullmatch(pattern_name)] or [self.told[otherwise]]


def _at_the_end(pattern: str) -> re.Pattern[str]:
    """Of the names that end, after a dot, in what a pattern matches."""
    return re.compile(rf"(?:.*\.)?(?:{pattern})")


def read_settings(file: Path) -> Settings:
    """Raises UserError with all that is not understood in the file."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise UserError(f"{file} cannot be read as json ({reason}); copy the adapter again") from reason
    kind = told.get("peft_type") if isinstance(told, dict) else type(told).__name__
    if kind != "LORA":
        raise UserError(f"{file} is of the kind {kind}, and only LORA is read here; {WAY_OUT}")
    told = {**SILENT, **told, **{table: told.get(table) or {} for table in TABLES}}
    start, problems = str(told.get("init_lora_weights")).lower(), []
    if start.startswith(MOVES_BASE):
        problems.append(f"{file}: init_lora_weights={start} changes the weights that the factors are added to; {WAY_OUT}")
    targets = told.get("target_parameters") or []
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        problems.append(f"{file}: target_parameters is a list of names; got {targets!r}; copy the adapter again")
    strange = [f"{name}={value!r}" for name, value in told.items() if value and name not in UNDERSTOOD]
    if strange:
        problems.append(f"{file} sets what is not known here: {shorten(strange)}; {WAY_OUT}")
    try:
        patterns = [pair for table in TABLES for pair in told[table].items()]
        for name, value in [*patterns, *((number, told[number]) for number in SILENT)]:
            _at_the_end(name)
            if type(value) not in (int, float) or not math.isfinite(value):
                raise TypeError(f"{name} is {value!r}")
    except (re.error, TypeError, AttributeError, OverflowError) as reason:
        problems.append(f"{file}: {', '.join(SILENT)} and their patterns have to be numbers ({reason}); copy the adapter again")
    raise_any(problems)
    return Settings(told)
