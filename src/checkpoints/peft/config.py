"""An adapter's adapter_config.json: which settings are supported, which entries they target, and how products are scaled."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from src.checkpoints.shards import ADAPTER_CONFIG
from src.errors import UserError, collect, raise_any, shorten
from src.runtime.patterns import Pattern, PatternError, TimeLimit, compile_pattern
from src.runtime.untrusted import read_json
from src.validation import is_number

CONFIG = ADAPTER_CONFIG
LORA, IA3 = "LORA", "IA3"  # kinds of adapters
ADVICE = "merge it with peft's merge_and_unload, save the model, and give that folder"

# Any other setting that is on changes what the factors mean, or may.
SUPPORTED_SETTINGS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "target_parameters", "task_type",
    "unsloth_fixed", "use_dora", "use_rslora",
}  # fmt: skip
DEFAULTS = {"r": 8, "lora_alpha": 8}
PATTERN_TABLES = ("rank_pattern", "alpha_pattern")  # values that replace r and lora_alpha where a pattern matches a name
PLAIN_NAME = re.compile(r"[\w.-]*")  # a pattern that is a name, as most are
LARGEST = 2**22  # bytes of the settings, and
MAX_PATTERNS = 20_000  # patterns in a table: an adapter of ten thousand layers has less than both
BASE_CHANGING_INITS = ("pissa", "corda", "olora", "loftq", "lora_ga")  # subtract the initial product from the base weights


@dataclass(frozen=True)
class Settings:
    """The settings of an adapter's training.

    values: by peft's names, defaults filled in.
    patterns: the patterns of names in a table, and the numbers for names that they match, by table.
    """

    values: Mapping[str, Any]
    patterns: Mapping[str, Sequence[tuple[Pattern | re.Pattern, float]]]

    @property
    def base_model(self) -> str | None:
        """The name of the model that the adapter was trained on; None if none is kept."""
        name = self.values.get("base_model_name_or_path")
        return name if isinstance(name, str) else None

    def is_target(self, name: str) -> bool:
        """Whether a parameter was adapted by its own name."""
        parts = name.split(".")
        return any(".".join(parts[start:]) in self._target_parameters for start in range(len(parts)))

    def targets(self, prefix: str, children: Iterable[str]) -> list[str]:
        """Return the entries that a layer's factors may change: its parameters that are targets, else its weight.

        children: the names of the layer's entries without `prefix`.
        """
        names = [prefix + child for child in children]
        weights = [prefix + child for child in ("weight", "in_proj_weight")]
        return list(filter(self.is_target, names)) or [name for name in weights if name in names][:1]

    def scale(self, pattern_name: str, rank: int) -> float:
        """Return what the product of a module's or parameter's factors is multiplied by: alpha over the rank or its root.

        Raise UserError if the settings give it another rank, or several alphas, or if their patterns take too long.
        """
        ranks = self._matching_values("rank_pattern", pattern_name, "r")
        alphas = self._matching_values("alpha_pattern", pattern_name, "lora_alpha")
        if rank not in ranks:
            raise UserError(
                f"the factors of {pattern_name} have rank {rank}, and {CONFIG} says {' or '.join(map(str, ranks))}; copy "
                "the adapter's weights and settings again, from one training run"
            )
        if len(set(alphas)) > 1:  # the first one would count, but peft sorts them when it writes
            raise UserError(
                f"{pattern_name} has several alphas by the alpha_pattern in {CONFIG}, {alphas}; keep the one that was meant there"
            )
        return alphas[0] / (math.sqrt(rank) if self.values.get("use_rslora") else rank)

    def _matching_values(self, table: str, pattern_name: str, otherwise: str) -> list[float]:
        try:
            values = [value for pattern, value in self.patterns[table] if pattern.fullmatch(pattern_name)]
        except PatternError as error:
            raise UserError(f"{table} in {CONFIG}: {error}, or {ADVICE}") from error
        return values or [self.values[otherwise]]

    @cached_property
    def _target_parameters(self) -> frozenset[str]:
        return frozenset(self.values.get("target_parameters") or ())


def _name_pattern(pattern: str, limit: TimeLimit) -> Pattern | re.Pattern:
    """Return the pattern of names that `pattern` matches, whole or from a dot to the end. Raise PatternError if it is none."""
    name_pattern = rf"(?:.*\.)?(?:{pattern})"
    return re.compile(name_pattern) if PLAIN_NAME.fullmatch(pattern) else compile_pattern(name_pattern, limit)


def read_settings(file: Path) -> Settings:
    """Return the settings in a file. Raise UserError with all that is not supported in it."""
    values = _read_values(file)
    if values["peft_type"] != LORA:
        raise UserError(f"{file} is of the kind {values['peft_type']}, and only {LORA} is read here; {ADVICE}")
    values = {**DEFAULTS, **values, **{table: values.get(table) or {} for table in PATTERN_TABLES}}
    problems = []
    initialization = str(values.get("init_lora_weights")).lower()
    if initialization.startswith(BASE_CHANGING_INITS):
        problems.append(f"{file}: init_lora_weights={initialization} changes the weights that the factors are added to; {ADVICE}")
    targets = values.get("target_parameters") or []
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        problems.append(f"{file}: target_parameters is a list of names; got {targets!r}; copy the adapter again")
    unsupported = [f"{name}={value!r}" for name, value in values.items() if value and name not in SUPPORTED_SETTINGS]
    if unsupported:
        problems.append(f"{file} sets what is not known here: {shorten(unsupported)}; {ADVICE}")
    with collect(problems):
        patterns = _compile_patterns(file, values)
    raise_any(problems)
    return Settings(values, patterns)


def adapter_kind(file: Path) -> str:
    """Return the kind of adapter that a file of settings is of, by peft's name. Raise UserError if the file cannot be read."""
    return str(_read_values(file)["peft_type"])


def _read_values(file: Path) -> dict[str, Any]:
    """Return the settings in a file as they are, the kind of adapter always among them."""
    try:
        values = read_json(file, LARGEST)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error}); copy the adapter again") from error
    return {"peft_type": None, **values} if isinstance(values, dict) else {"peft_type": type(values).__name__}


def _compile_patterns(file: Path, values: Mapping[str, Any]) -> dict[str, list[tuple[Pattern | re.Pattern, float]]]:
    """Return `Settings.patterns`. Raise UserError if they or the numbers they replace are none."""
    if not all(isinstance(values[table], dict) and len(values[table]) <= MAX_PATTERNS for table in PATTERN_TABLES):
        names = " and ".join(PATTERN_TABLES)
        raise UserError(f"{file}: {names} are tables of at most {MAX_PATTERNS:,} patterns; copy the adapter again")
    wrong = []
    for number, table in zip(DEFAULTS, PATTERN_TABLES):
        pairs = {number: values[number], **values[table]}.items()
        wrong += [f"{name} is {value!r}" for name, value in pairs if not is_number(value) or (number == "r" and value <= 0)]
    if wrong:
        numbers = f"{', '.join(DEFAULTS)} and their patterns have to be numbers, ranks above zero"
        raise UserError(f"{file}: {numbers} ({shorten(wrong)}); copy the adapter again")
    limit = TimeLimit()
    try:
        return {
            table: [(_name_pattern(pattern, limit), value) for pattern, value in values[table].items()]
            for table in PATTERN_TABLES
        }
    except PatternError as error:
        raise UserError(f"{file}: of its patterns, {error}; copy the adapter again, or {ADVICE}") from error
