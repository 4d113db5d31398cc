"""Compose the configuration from overrides, and validate its options."""

import os
from collections.abc import Callable, Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import (
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from command_line.composition import ROOT, composition_problems, config_loader, explained, one_line
from command_line.config_files import check_config_files
from command_line.overrides import expanded, parse_overrides, quoted, repetitions, typed_overrides
from src.errors import UserError, raise_any
from src.experiments.questions import without_usual
from src.experiments.titles import STEPS, format_method
from src.runtime.environment import is_distributed
from src.runtime.files import expand_path, process_mark
from src.validation import is_number, is_whole

OmegaConf.register_new_resolver("process_mark", process_mark, replace=True, use_cache=True)  # one for all jobs of a sweep
check_config_files()

# Options that hold others: which of them, or which group, a user who sets them as a whole may mean, and a value of it.
HOLDERS = {
    "tasks": ("tasks", "vision"),
    "model": ("model", "ViT-demo"),
    "method": ("method", "ties"),
    "finetuning_mode": ("finetuning_mode", "standard"),
    "heads": ("heads.source", "prompts"),
    "bundle": ("bundle.bits", 4),
    "statistics": ("statistics.files", ["A.safetensors", "B.safetensors"]),
    "wandb": ("wandb.mode", "disabled"),
    "model.family": ("model", "ViT-demo"),
    "model.recipe": ("model.recipe.lr", 1e-5),
    "method.base": ("method@method.base", "ties"),
    "finetuning_mode.lora": ("finetuning_mode.lora.rank", 16),
}
SINGLE_CHOICES = ("model", "method", "finetuning_mode")
ADDABLE = ("tasks.", "method.", "hydra.", "hydra/")  # what `+` and `++` add there is checked where it is read
FOLDERS = ("data_location", "model_location", "cache_dir", "results_dir")
TASK_LISTS = ("names", "control")  # beside the tasks' own options
COUNTS = ("batch_size", "candidates_per_pass", "workers", "world_size", "rank")
NORMS = "norms"
CHOICES = {
    "normalise": (NORMS, None),
    "output_kind": ("model", "task_vector", "bundle", "adapter"),
    "train_precision": ("fp32", "bf16", None),
    "wandb.mode": ("disabled", "online", "offline"),
    "heads.source": ("published", "prompts", None),
    "model.finetune_missing": (True, False, None),
    **dict.fromkeys(("analysis", "compile", "skip_done", "download", "heads.parity", "overwrite", "tensorboard"), (True, False)),
}
# Options without a list of choices: whether a value is valid, and which values are, in words.
VALUES: dict[str, tuple[Callable[[object], bool], str]] = {
    **{key: (lambda value: value is None or is_whole(value, least=1), "a positive whole number") for key in COUNTS},
    "log_steps": (lambda value: is_whole(value, least=1), "a positive whole number"),
    "specify_lambda": (lambda value: value is None or is_number(value), "a number"),
    "n_eval_points": (lambda value: value is None or type(value) is int, "a whole number"),
    "save_minutes": (lambda value: is_number(value) and value >= 0, "a number, 0 to save after each step"),
    "pixel_cache_gb": (lambda value: is_number(value) and value >= 0, "a number of gigabytes, 0 to keep nothing"),
    "device": (lambda value: value is None or isinstance(value, str | int), "a name such as cpu or cuda:0"),
    **{
        key: (lambda value: value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)), "a path")
        for key in ("pretrained", "output", "prompts_location")
    },
    "lineages": (
        lambda value: value is None or isinstance(value, str | ListConfig),
        "a file, or a list of files such as [mine.yaml]",
    ),
    "model.name": (lambda value: isinstance(value, str) and value != "", "a name"),
    **{key: (lambda value: isinstance(value, str), "a folder") for key in FOLDERS},
}


def compose_config(overrides: list[str]) -> DictConfig:
    """Return the configuration that main.py would run with under these overrides. Raise UserError for all that is wrong."""
    overrides = list(map(expanded, overrides))
    with explained(overrides), config_loader():
        config = compose("config", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config.hydra
    return config


def validate(config: DictConfig) -> None:
    """Raise UserError for options outside their choices, all at once, before anything is loaded."""
    from src.compact.quantisation import BITS, PER  # with torch, which --help has no need to wait for
    from src.evaluation.search import STRATEGIES
    from src.models.family import PRECISIONS

    typed = typed_overrides()
    raise_any(repetitions(typed))
    try:
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is needed; give {error.full_key}=VALUE") from error
    except InterpolationResolutionError as error:
        raise UserError(_without_value(error, parse_overrides(typed)[0])) from error
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {one_line(error)}") from error
    raise_any(_misplaced(config, parse_overrides(typed)[0]))
    choices_of = {**CHOICES, "precision": tuple(PRECISIONS), "search": tuple(STRATEGIES), "bundle.per": PER,
                  "bundle.bits": (*BITS, None), "bundle.base_bits": (*BITS, None)}  # fmt: skip
    problems = [
        f"{key} is {_alternatives(choices)}; got {value}"
        for key, choices in choices_of.items()
        if (value := OmegaConf.select(config, key)) not in choices
    ]
    problems += [f"{key} is {what}; got {value}" for key, (is_valid, what) in VALUES.items()
                 if not is_valid(value := OmegaConf.select(config, key))]  # fmt: skip
    problems += [f"{key}={config[key]} is a file, and a folder is needed; choose another place"
                 for key in FOLDERS if isinstance(config[key], str) and expand_path(config[key]).is_file()]  # fmt: skip
    raise_any([*problems, *_contradictions(config)])


def _without_value(error: InterpolationResolutionError, overrides: Sequence[Override]) -> str:
    """Return a sentence on an option whose value is taken from elsewhere, `${...}`, where there is none."""
    typed = next((override for override in overrides if override.key_or_group == error.full_key), None)
    if not typed:
        return f"{error.full_key} takes a value that is not there ({one_line(error)}); check the name in ${{}} of its file"
    text = quoted(typed.get_key_element(), typed.value())
    return f"{typed.input_line} takes a value that is not there; check the name in ${{}}, or type {text} for the text itself"


def _misplaced(config: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """Return a sentence for each group without one choice, and each override that replaces options or adds unknown ones."""
    choices = HydraConfig.get().runtime.choices
    typed = {override.key_or_group: override.value() for override in overrides}
    problems = [_no_single_choice(group, typed.get(group)) for group in SINGLE_CHOICES if not isinstance(choices.get(group), str)]
    added = {override.key_or_group for override in overrides if not override.is_delete()}
    for override in overrides:
        key, replaces = override.key_or_group, not isinstance(OmegaConf.select(config, override.key_or_group), DictConfig)
        if override.is_delete():
            if replaces and not key.startswith(ADDABLE) and key not in (*SINGLE_CHOICES, *added):
                problems.append(f"{override.input_line} removes what the program reads; leave it out")
        elif replaces and (meant := _holder(key)):
            others = [each.input_line for each in overrides if each is not override]
            problems.append(f"{override.input_line} replaces all options of {key}; {_guess(override.value(), *meant, others)}")
    if any((each.is_add() or each.is_force_add()) and not each.key_or_group.startswith(ADDABLE) for each in overrides):
        problems += _composition_problems([each.input_line.lstrip("+") for each in overrides if not each.is_delete()])
    return problems


def _no_single_choice(group: str, typed: object) -> str:
    """Return a sentence on a group of which no choice is made, or several."""
    if not isinstance(typed, list):
        return f"{group}= takes one name, as in {group}={HOLDERS[group][1]}"
    return f"{group}= takes one name; python main.py -m {group}={','.join(map(str, typed))} sweeps over several"


def _holder(key: str) -> tuple[str, object] | None:
    """Return what a user who sets an option that holds others may mean, and a value of it; None if it holds none."""
    holder, _, name = key.partition(".")
    is_task = holder == "tasks" and name and "." not in name and name not in TASK_LISTS
    return (f"{key}.source", "FOLDER") if is_task else HOLDERS.get(key)


def _guess(value: object, meant: str, example: object, others: Sequence[str]) -> str:
    """Return which override was probably meant: of what `meant` takes, the value itself or else the example."""
    override = quoted(meant, value)
    fits = isinstance(value, str) and value in CHOICES.get(meant, (value,)) and not _composition_problems([*others, override])
    return f"did you mean {override}?" if fits else f"set one, as in {quoted(meant, example)}"


def _composition_problems(texts: Sequence[str]) -> list[str]:
    """Return what is wrong with overrides that this run might have."""
    return composition_problems(texts, HydraConfig.get().job.config_name, config_folders())


def config_folders() -> list[str]:
    """Return the folders of further configurations that this run has, from --config-dir or hydra.searchpath."""
    sources = HydraConfig.get().runtime.config_sources
    return [source.path for source in sources if source.schema == "file" and source.provider not in ("main", "schema")]


def _alternatives(choices: tuple) -> str:
    """Return choices as a user types them: `fp32, bf16 or null`."""
    *first, last = ("null" if choice is None else str(choice).lower() for choice in choices)
    return f"{', '.join(first)} or {last}"


def _contradictions(config: DictConfig) -> list[str]:
    """Return contradictions between options, and options whose package is not installed, a sentence each."""
    problems, load = [], config.method.get("load_mask", False)
    problems += [f"specify_lambda is the one coefficient, and {key} is for a search of it; give one of the two"
                 for key in ("n_eval_points", "search")
                 if config.specify_lambda is not None and config[key] not in (None, "grid")]  # fmt: skip
    if config.output_kind in ("bundle", "adapter") and not config.output:
        problems.append(f"output_kind={config.output_kind} needs a folder to write, such as output={config.output_kind}/")
    if config.rank is not None and config.output_kind != "adapter":
        problems.append("rank is of an adapter that is written; give output_kind=adapter, too, or leave it out")
    steps = [step for step in STEPS if config.method[f"apply_{step}"] is True]
    if config.method.step_order != list(STEPS) and len(steps) < len(STEPS):
        problems.append("method.step_order is for a merge with both SVC and LiNeS; leave it out, or give the other, too")
    if config.method.svc_alpha is not None and config.method.apply_svc is not True:
        problems.append("method.svc_alpha is of SVC; give method.apply_svc=True, too, or leave it out")
    if config.bundle.per != "layer" and config.bundle.bits is None:
        problems.append("bundle.per says what shares a step of codes; give their bits, too: bundle.bits=4")
    if config.bundle.base_bits is not None and config.bundle.bits is None:
        problems.append("bundle.base_bits is of the mean that codes are offsets from; give their bits, too: bundle.bits=2")
    if not isinstance(load, bool | str | None):
        problems.append(f"method.load_mask is true, false, null or a path; got {load}")
    elif load and config.method.get("mask_lambda") is not None:
        problems.append("method.mask_lambda makes masks and method.load_mask loads them; give one of the two")
    if config.method.get("use_ties") is True and "own_base" not in config.method:
        problems.append("method.use_ties=True is for method=tall_mask and method=consensus; leave it out")
    if config.compile and config.finetuning_mode.linearized != "never":
        problems.append("compile=true is for the model itself, not for its tangent model; leave it out")
    if config.tensorboard and find_spec("tensorboard") is None:
        problems.append("tensorboard=true, but it is not installed; pip install tensorboard")
    if config.wandb.mode not in ("disabled", None) and find_spec("wandb") is None:
        problems.append(f"wandb.mode={config.wandb.mode}, but wandb is not installed; pip install wandb")
    if is_distributed() and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        problems.append("a sweep (-m) does not run under torchrun; world_size=N starts a process group for each of its runs")
    return problems


def export_root() -> None:
    """Let jobs that a launcher starts elsewhere import this program from wherever they run."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(ROOT)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *paths])


def published_tasks() -> list[str]:
    """Return the tasks of which fine-tuned weights and heads are published: those of the papers."""
    return list(OmegaConf.load(ROOT / "config" / "tasks" / "vision.yaml").names)


def manifest_paths(config: DictConfig) -> list[Path]:
    """Return the files that name benchmarks: the user's, then the program's."""
    listed = config.lineages or []
    files = [listed] if isinstance(listed, str) else list(listed)
    return [*map(expand_path, files), ROOT / "config" / "lineage.yaml"]


def method_name(config: DictConfig) -> str:
    """Return the method as the user chose it, for titles: `ties`, `ties + LiNeS`, `emr, 4 bits`."""
    bits = "" if config.bundle.bits is None else f", {config.bundle.bits} bits"
    return format_method(HydraConfig.get().runtime.choices.method, config.method, config.normalise) + bits


def model_name(config: DictConfig) -> str:
    """Return the model, and the fine-tuning mode where it is not the standard one, for titles."""
    mode = config.finetuning_mode.name
    return config.model.name if mode == "standard" else f"{config.model.name} ({mode})"


def choices() -> dict[str, str]:
    """Return what was chosen of the groups that have names, by group, as `{"method": "ties"}`."""
    chosen = HydraConfig.get().runtime.choices
    return {group: chosen[group] for group in (*SINGLE_CHOICES, "tasks") if isinstance(chosen.get(group), str)}


def setting(config: DictConfig, tasks: list[str]) -> dict:
    """Return the options that decide what models predict, part of every record's `question`; not folders or batch sizes."""
    mode = OmegaConf.to_container(config.finetuning_mode, resolve=True)
    return {"model": config.model.name, "finetuning_mode": mode, "tasks": tasks, "precision": config.precision}


def merge_question(config: DictConfig, statistics: Collection[str] = ()) -> dict:
    """Return the options that decide a merge's result, beside the `setting`.

    statistics: the kinds that its method needs; where there are none, their options decide nothing, and without bits those of
        bundles do not.
    """
    kept = ["method", *["statistics"] * bool(statistics), *["bundle"] * (config.bundle.bits is not None)]
    options = {key: OmegaConf.to_container(config[key], resolve=True) for key in kept}
    return without_usual({**options, **{key: config[key] for key in ("specify_lambda", "n_eval_points", "search", "normalise")}})


def portable(config: DictConfig) -> dict:
    """Return all options as JSON values, paths relative to the repository or to the folder of the run, for records."""

    def relative(value: object) -> object:
        if isinstance(value, dict):
            return {key: relative(each) for key, each in value.items()}
        if isinstance(value, list):
            return [relative(each) for each in value]
        if isinstance(value, str) and Path(value).is_absolute():
            for folder in (Path.cwd(), ROOT):
                if Path(value).is_relative_to(folder):
                    return str(Path(value).relative_to(folder))
        return value

    return relative(OmegaConf.to_container(config, resolve=True))
