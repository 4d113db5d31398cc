"""From overrides to a configuration, its choices checked."""

import importlib.util
import os
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from src.data.task import Task
from src.errors import UserError, raise_any
from src.evaluation.search import STRATEGIES
from src.merging.method import is_number
from src.models.family import PRECISIONS
from src.runtime.distributed import is_member

ROOT = Path(__file__).parent.parent
OmegaConf.register_new_resolver("repository", lambda path: str(ROOT / path), replace=True)
OmegaConf.register_new_resolver("tenths", lambda top: [n / 10 for n in range(1, round(10 * top) + 1)], replace=True)

# Tasks are the user's to add to: tasks.Birds.source=... and tasks.MNIST.columns=... need no `+` before them.
ConfigStore.instance().store("any_task", OmegaConf.create({}, flags={"struct": False}))

# Jobs that a launcher starts elsewhere import this program from wherever they run.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def composed(overrides: list[str]) -> DictConfig:
    """The configuration that main.py would run with under these overrides."""
    with initialize_config_dir(str(ROOT / "config"), version_base=None):
        config = compose("config", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config.hydra
    return config


def check_choices(config: DictConfig) -> None:
    """Raise UserError for options outside their choices, all at once, before anything is loaded."""
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    nodes = {"heads": "heads.source", "wandb": "wandb.mode"} | {
        group: group for group in ("tasks", "model", "method", "finetuning_mode")
    }
    raise_any(f"{key}={config[key]} sets all of {key}; did you mean {option}=?" for key, option in nodes.items()
              if not isinstance(config[key], DictConfig))  # fmt: skip
    problems = []
    if config.output_kind not in ("model", "task_vector", "bundle"):
        problems.append(f"output_kind is model, task_vector or bundle; got {config.output_kind}")
    if config.output_kind == "bundle" and not config.output:
        problems.append("output_kind=bundle needs a folder to write, such as output=bundle/")
    load = config.method.get("load_mask", False)
    if not isinstance(load, bool | str | None):
        problems.append(f"method.load_mask is true, false, null or a path; got {load}")
    elif load and config.method.get("mask_lambda") is not None:
        problems.append("method.mask_lambda makes masks and method.load_mask loads them; give one of the two")
    if config.specify_lambda is not None and not is_number(config.specify_lambda):
        problems.append(f"specify_lambda is a number; got {config.specify_lambda}")
    for key in ("batch_size", "candidates_per_pass", "workers", "world_size", "log_steps"):
        if config[key] is not None and (type(config[key]) is not int or config[key] < 1):
            problems.append(f"{key} is a positive whole number; got {config[key]}")
    for key, choices in (("precision", PRECISIONS), ("search", STRATEGIES)):
        if config[key] not in choices:
            problems.append(f"{key} is {' or '.join(choices)}; got {config[key]}")
    for key in ("compile", "download", "tensorboard"):
        if config[key] not in (True, False):
            problems.append(f"{key} is true or false; got {config[key]}")
    if config.train_precision not in (None, "fp32", "bf16"):
        problems.append(f"train_precision is fp32, bf16 or null; got {config.train_precision}")
    if not is_number(config.save_minutes) or config.save_minutes < 0:
        problems.append(f"save_minutes is a number, 0 to save after each step; got {config.save_minutes}")
    if config.compile and config.finetuning_mode.linearized != "never":
        problems.append("compile=true is for the model itself, not for its tangent model; leave it out")
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        problems.append("tensorboard=true, but it is not installed; pip install tensorboard")
    if not is_number(config.pixel_cache_gb) or config.pixel_cache_gb < 0:
        problems.append(f"pixel_cache_gb is a number of gigabytes, 0 to keep nothing; got {config.pixel_cache_gb}")
    if config.n_eval_points is not None and type(config.n_eval_points) is not int:
        problems.append(f"n_eval_points is a whole number; got {config.n_eval_points}")
    if config.analysis not in (True, False):
        problems.append(f"analysis is true or false; got {config.analysis}")
    if config.wandb.mode not in ("disabled", "online", "offline"):
        problems.append(f"wandb.mode is disabled, online or offline; got {config.wandb.mode}")
    elif config.wandb.mode != "disabled" and importlib.util.find_spec("wandb") is None:
        problems.append(f"wandb.mode={config.wandb.mode}, but wandb is not installed; pip install wandb")
    places = ("data_location", "model_location", "cache_dir", "results_dir")
    problems += [f"{key} is a folder; got {config[key]}" for key in places if not isinstance(config[key], str)]
    problems += [f"{key}={config[key]} is a file, and a folder is needed; choose another place"
                 for key in places if isinstance(config[key], str) and Path(config[key]).expanduser().is_file()]  # fmt: skip
    if is_member() and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        problems.append("a sweep (-m) does not run under torchrun; world_size=N starts a team for each of its runs")
    raise_any(problems)


def manifests(config: DictConfig) -> list[Path]:
    """The files that name benchmarks: the user's, then the program's."""
    given = config.lineages or []
    listed = [given] if isinstance(given, str) else list(given)
    return [*(Path(str(path)).expanduser() for path in listed), ROOT / "config" / "lineage.yaml"]


def device_of(config: DictConfig) -> torch.device:
    """The device asked for, or this process's GPU where there is one, with its number: threads have none of their own."""
    name = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as reason:
        raise UserError(f"device={name} is not a device torch knows; use cpu, cuda or cuda:N") from reason
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}, but torch sees no GPU here; use device=cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}, but torch sees {torch.cuda.device_count()} GPUs, counted from 0")
    if device.type == "cuda" and is_member() and device.index is not None:
        raise UserError(f"device={name} puts all processes of a team on one GPU; leave the number out")
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean fp32: convolutions would round by default
        return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    return device


def method_name(config: DictConfig) -> str:
    """As the user chose it, for titles: `ties`, `ties + LiNeS`."""
    return HydraConfig.get().runtime.choices.method + (" + LiNeS" if config.method.apply_lines else "")


def model_name(config: DictConfig) -> str:
    """For titles: the model, and the fine-tuning mode where it is not the usual one."""
    mode = config.finetuning_mode.name
    return config.model.name if mode == "standard" else f"{config.model.name} ({mode})"


def setting(config: DictConfig, tasks: list[str]) -> dict:
    """The options that decide what models predict: those that do not (places, batch size) are left out."""
    mode = OmegaConf.to_container(config.finetuning_mode, resolve=True)
    return {"model": config.model.name, "finetuning_mode": mode, "tasks": tasks, "precision": config.precision}


def question(config: DictConfig, tasks: list[Task]) -> dict:
    """The options that decide a merge's numbers."""
    options = {key: config[key] for key in ("specify_lambda", "n_eval_points", "search")}
    method = OmegaConf.to_container(config.method, resolve=True)
    return {**setting(config, [task.name for task in tasks]), "method": method, **options}
