"""Checks before any work of a run that scores models: tasks, data, heads and checkpoints that are missing."""

from collections.abc import Iterable, Sequence

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from command_line.build import build_heads
from command_line.composition import read_overrides
from command_line.config import config_folders, published_tasks
from command_line.console import ProgressBar
from command_line.overrides import parse_overrides, quoted, shell_word, typed_overrides
from command_line.paths import Paths
from command_line.readers import FINETUNE, unread_name
from src.checkpoints import mats
from src.checkpoints.published import SERVED_MODELS, file_names
from src.checkpoints.shards import split_part
from src.data.registry import find_tasks, require_data
from src.data.task import Task
from src.errors import UserError, plural, raise_any
from src.runtime.distributed import ProcessGroup
from src.runtime.files import expand_path
from src.validation import is_whole

# What finetune.py reads but is not given as the run has it: flags stand for it, or the tasks that are missing do.
NOT_PASSED_ON = ("model", "finetuning_mode", "DATASETS", "num_tasks", "finetuned")
STANDARD_WEIGHTS = ("standard", "posthoc")  # modes whose models are fine-tuned as standard ones


def selected_tasks(config: DictConfig) -> list[Task]:
    """Return the tasks of DATASETS, or the first num_tasks of the list in tasks=. Raise UserError for unknown ones."""
    listed = config.DATASETS if config.DATASETS is not None else config.tasks.names
    names = [listed] if isinstance(listed, str) else list(listed) if isinstance(listed, ListConfig) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"DATASETS lists names of tasks, as in 'DATASETS=[MNIST,Cars]'; got {listed}")
    if config.num_tasks is not None:
        if not is_whole(config.num_tasks, least=1) or config.num_tasks > len(names):
            raise UserError(f"num_tasks={config.num_tasks}, but the run has {plural(len(names), 'task')}: {', '.join(names)}")
        names = names[: config.num_tasks]
    return _find(config, names, _task_options(config))


def unseen_tasks(config: DictConfig, tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks of eval_on, itself a list of names, one name, or the name of a list in config/tasks, but for `tasks`.

    Raise UserError for unknown ones.
    """
    listed, options = config.eval_on, _task_options(config)
    with read_overrides([f"tasks={listed}"] if isinstance(listed, str) else [], folders=config_folders()) as (choice, _, groups):
        if isinstance(listed, str) and listed in groups.get_group_options("tasks"):
            (composed,) = groups.configs(choice)
            listed, options = composed.tasks.names, {**_task_options(composed), **options}
    names = [listed] if isinstance(listed, str) else list(listed or [])
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"eval_on lists names of tasks, as in 'eval_on=[MNIST,Cars]', or names a list; got {config.eval_on}")
    seen = [task.name for task in tasks]
    new = [name for name in names if name not in seen]
    return _find(config, new, {name: options[name] for name in new if name in options})


def control_task(config: DictConfig, name: str | None) -> Task:
    """Return the task that negation keeps: the one named, else the one that comes with the list in tasks=."""
    name = name or config.tasks.get("control")
    if not name:
        raise UserError("nothing says which task to keep: give --control-dataset=TASK")
    (task,) = _find(config, [name], {name: _task_options(config).get(name)})
    return task


def _find(config: DictConfig, names: list[str], options: dict) -> list[Task]:
    prompts = config.prompts_location
    return find_tasks(names, expand_path(config.data_location), options, prompts and expand_path(str(prompts)))


def _task_options(config: DictConfig) -> dict:
    """Return the options of tasks, by task."""
    nodes = OmegaConf.to_container(config.tasks, resolve=True)
    return {name: node for name, node in nodes.items() if isinstance(node, dict)}


def check_inputs(config: DictConfig, paths: Paths, tasks: list[Task], others: Iterable[Task] = ()) -> None:
    """Raise UserError naming every dataset, head and checkpoint that is missing and that this run cannot fetch or make.

    others: tasks without fine-tuned weights.
    """
    everything = [*tasks, *others]
    problems = missing_data(config, everything)
    problems += _missing_weights(config, paths, [task.name for task in tasks], [task.name for task in everything])
    problems += _missing_heads(config, paths, [task.name for task in everything])
    raise_any(problems)


def _missing_weights(config: DictConfig, paths: Paths, names: list[str], all_names: list[str]) -> list[str]:
    """Return sentences on fine-tuned weights that are not there or are of no task of the run.

    names: tasks that need fine-tuned weights.
    all_names: all tasks of the run.
    """
    own = paths.user_finetuned
    problems = [f"finetuned= names {name}, which is no task of this run: name one of {', '.join(all_names)}"
                for name in own if name not in all_names]  # fmt: skip
    problems += [f"finetuned= says {name} is at {own[name]}, and nothing is there; check the path"
                 for name in names if name in own and not split_part(own[name])[0].exists()]  # fmt: skip
    missing = [name for name in names if name not in own and not paths.finetuned(name).exists()]
    if missing and not config.model.finetune_missing:
        problems.append(
            f"no fine-tuned weights for {', '.join(missing)} in {paths.model} (<Task>Val/{file_names(paths.mode)[0]}); "
            f"run {_download(config, missing)}{_finetune_command(config, missing)}, "
            f"or name yours with {quoted('finetuned', {missing[0]: 'PATH'})}"
        )
    return problems


def _missing_heads(config: DictConfig, paths: Paths, names: list[str]) -> list[str]:
    """Return a sentence if heads.source=published and some tasks have none."""
    if config.heads.source != "published":
        return []
    heads = build_heads(config, paths)
    missing = [name for name in names if heads.published_file(name) is None]
    download = _download(config, missing)
    return [
        f"no published heads for {', '.join(missing)} in {paths.model} (head_<Task>Val.pt); "
        f"{download and f'run {download}'}leave out heads.source"
    ] * bool(missing)


def _download(config: DictConfig, tasks: list[str]) -> str:
    """Return the command that downloads this model's checkpoints of tasks, with an "or" behind it; "" if nobody serves any."""
    model, mode = HydraConfig.get().runtime.choices.model, config.finetuning_mode.name
    folder = shell_word(f"--model-location={config.model_location}")
    if config.model.name == model and set(tasks) & mats.steps_of(model, config.finetuning_mode.files).keys():
        return f"python download_checkpoints.py --model={model} {folder}, which says where they are, or "
    is_served = config.model.name == model in SERVED_MODELS and config.model.pretrained == "openai" and mode in STANDARD_WEIGHTS
    served = [task for task in tasks if task in published_tasks()]
    if not (is_served and served):
        return ""
    which = "" if served == tasks else f" for {', '.join(served)}"
    return f"python download_checkpoints.py --model={model} --kind=checkpoints {folder}{which}, or "


def _finetune_command(config: DictConfig, tasks: list[str]) -> str:
    """Return the command that fine-tunes this very model on tasks, in this run's mode."""
    choices = HydraConfig.get().runtime.choices
    mode = [] if config.finetuning_mode.name in STANDARD_WEIGHTS else [f"--finetuning-mode={choices.finetuning_mode}"]
    passed_on = [
        override.input_line
        for override in parse_overrides(typed_overrides())[0]
        if override.key_or_group not in NOT_PASSED_ON and not unread_name(FINETUNE, override.key_or_group)
    ]
    words = [f"--model={choices.model}", *mode, *passed_on, f"--train-dataset={','.join(tasks)}"]
    return " ".join(["python finetune.py", *_config_folders(), *map(shell_word, words)])


def _config_folders() -> list[str]:
    """Return what names the run's folders of configurations, as finetune.py takes it and as it is typed in a shell."""
    folders = config_folders()
    if len(folders) > 1:  # --config-dir is for one
        return [quoted("hydra.searchpath", [f"file://{folder}" for folder in folders])]
    return [shell_word(f"--config-dir={folder}") for folder in folders]


def missing_data(config: DictConfig, tasks: list[Task]) -> list[str]:
    """Return a sentence for each dataset that is missing and will not be downloaded."""
    return [problem for task in tasks if not (config.download and task.is_fetchable) for problem in task.problems()]


def fetch_data(config: DictConfig, tasks: list[Task], group: ProcessGroup) -> None:
    """Download the datasets that are missing, in the main process, for which all others wait."""
    if group.is_main:
        with ProgressBar(unit="B") as bar:
            require_data(tasks, config.download, bar)
    group.barrier()
