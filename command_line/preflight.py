"""The tasks of a run and what they need, looked for before any work."""

from collections.abc import Iterable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from command_line.console import Progress
from command_line.models import checkpoint_paths, heads_of, models_folder
from src.checkpoints.published import SERVED, names_of
from src.data.registry import find_tasks, require_data
from src.data.task import Task
from src.errors import UserError, raise_any
from src.runtime.distributed import Team


def selected_tasks(config: DictConfig) -> list[Task]:
    """The tasks of DATASETS, or the first num_tasks of the list in tasks=."""
    asked = config.DATASETS if config.DATASETS is not None else config.tasks.names
    names = [asked] if isinstance(asked, str) else list(asked)
    if not names:
        raise UserError("DATASETS names no task; leave it out for all of them")
    if config.num_tasks is not None:
        if type(config.num_tasks) is not int or not 1 <= config.num_tasks <= len(names):
            raise UserError(f"num_tasks={config.num_tasks}, but there are {len(names)} tasks: {', '.join(names)}")
        names = names[: config.num_tasks]
    return find_tasks(names, Path(config.data_location).expanduser(), _options(config))


def control_of(config: DictConfig, name: str | None) -> Task:
    """The task that negation keeps: the one named, else the one that comes with the list in tasks=."""
    name = name or config.tasks.get("control")
    if not name:
        raise UserError("nothing says which task to keep: give --control-dataset=TASK")
    (task,) = find_tasks([name], Path(config.data_location).expanduser(), {name: _options(config).get(name)})
    return task


def _options(config: DictConfig) -> dict:
    """What is given of tasks, by name."""
    nodes = OmegaConf.to_container(config.tasks, resolve=True)
    return {name: node for name, node in nodes.items() if isinstance(node, dict)}


def check_inputs(config: DictConfig, tasks: list[Task], others: Iterable[Task] = ()) -> None:
    """Raise UserError naming every dataset, head and checkpoint that is missing and that this run cannot fetch or make.

    others: tasks without fine-tuned weights.
    """
    everything = [*tasks, *others]
    problems, folder, names = missing_data(config, everything), models_folder(config), [task.name for task in tasks]
    paths, files = checkpoint_paths(config, names), names_of(config.finetuning_mode.files)
    given = config.finetuned or {}
    problems += [
        f"finetuned= names {name}, which is no task of this run ({', '.join(task.name for task in everything)})"
        for name in given
        if name not in {task.name for task in everything}
    ]
    problems += [f"finetuned= says {name} is at {paths[name]}, and nothing is there; check the path"
                 for name in given if name in names and not paths[name].exists()]  # fmt: skip
    get, make = _commands(config)
    lacking = [name for name in names if name not in given and not paths[name].exists()]
    if lacking and not config.model.finetune_missing:
        problems.append(
            f"no fine-tuned weights for {', '.join(lacking)} in {folder} ({' or '.join(f'<Task>Val/{file}' for file in files)}); "
            f"run {get}{make} --train-dataset={','.join(lacking)}, or name yours with 'finetuned={{TASK: PATH}}'"
        )
    heads = heads_of(config)
    headless = [task.name for task in everything if heads.source == "published" and heads.from_file(task.name) is None]
    if headless:
        named, remedy = ", ".join(headless), get and f"run {get}"
        problems.append(f"no published heads for {named} in {folder} (head_<Task>Val.pt); {remedy}leave out heads.source")
    raise_any(problems)


def _commands(config: DictConfig) -> tuple[str, str]:
    """What downloads this very model's checkpoints (with an "or" behind it; nothing if nobody serves them) and fine-tunes it."""
    model = HydraConfig.get().runtime.choices.model
    own = "" if model == config.model.name else f" model.name={config.model.name} model.pretrained={config.model.pretrained}"
    mode = config.finetuning_mode.name
    served = model in SERVED and config.model.pretrained == "openai" and mode in ("standard", "posthoc")
    get = f"python download_checkpoints.py --model={model} --kind=checkpoints, or " if served else ""
    how = "" if mode in ("standard", "posthoc") else f" --finetuning-mode={mode}"
    return get, f"python finetune.py --model={model}{own}{how}"


def missing_data(config: DictConfig, tasks: list[Task]) -> list[str]:
    """A sentence for each dataset that is missing and will not be downloaded."""
    return [problem for task in tasks if not (config.download and task.fetchable) for problem in task.problems()]


def fetch_data(config: DictConfig, tasks: list[Task], team: Team) -> None:
    """Download the datasets that are missing."""
    if team.leads:
        with Progress(unit="B") as bar:
            require_data(tasks, config.download, bar.plan, bar.report)
    team.wait()
