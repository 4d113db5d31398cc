"""The tasks of a run and what they need, looked for before any work."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from command_line.models import checkpoint_paths, heads_of, models_folder
from command_line.speech import Progress
from src.data.catalogue import find_tasks, require_data
from src.data.task import Task
from src.errors import UserError, raise_any
from src.team import Team


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
    options = {name: node for name, node in OmegaConf.to_container(config.tasks, resolve=True).items() if isinstance(node, dict)}
    return find_tasks(names, Path(config.data_location).expanduser(), options)


def check_inputs(config: DictConfig, tasks: list[Task]) -> None:
    """Raise UserError naming every dataset, head and checkpoint that is missing and that this run cannot fetch or make."""
    problems, folder = missing_data(config, tasks), models_folder(config)
    get = f"python download_checkpoints.py --model={config.model.name} --kind=checkpoints"
    paths = checkpoint_paths(config, (task.name for task in tasks))
    lacking = [task for task, path in paths.items() if not path.exists()]
    if lacking and not config.model.finetune_missing:
        problems.append(
            f"no fine-tuned weights for {', '.join(lacking)} in {folder} (<Task>Val/nonlinear_finetuned.pt or .safetensors); "
            f"run {get}, or python finetune.py --model={config.model.name} --train-dataset={','.join(lacking)}, "
            "or name yours with 'finetuned={TASK: PATH}'"
        )
    heads = heads_of(config)
    headless = [task.name for task in tasks if heads.source == "published" and heads.from_file(task.name) is None]
    if headless:
        named = ", ".join(headless)
        problems.append(f"no published heads for {named} in {folder} (head_<Task>Val.pt); run {get}, or leave out heads.source")
    raise_any(problems)


def missing_data(config: DictConfig, tasks: list[Task]) -> list[str]:
    """A sentence for each dataset that is missing and will not be downloaded."""
    return [problem for task in tasks if not (config.download and task.fetchable) for problem in task.problems()]


def fetch_data(config: DictConfig, tasks: list[Task], team: Team) -> None:
    """Download the datasets that are missing."""
    if team.leads:
        with Progress(unit="B") as bar:
            require_data(tasks, config.download, bar.plan, bar.report)
    team.wait()
