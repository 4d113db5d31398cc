"""Checks before any work of a run that scores models: tasks, data, heads and checkpoints that are missing."""

from collections.abc import Iterable

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from command_line.build import build_heads
from command_line.console import ProgressBar
from command_line.overrides import quoted, shell_word, typed_overrides
from command_line.paths import Paths
from src.checkpoints.published import SERVED_MODELS, file_names
from src.checkpoints.shards import split_part
from src.data.registry import find_tasks, require_data
from src.data.task import Task
from src.errors import UserError, raise_any
from src.runtime.distributed import ProcessGroup
from src.runtime.files import expand_path
from src.validation import is_whole

# Of a run, those that fine-tuning needs to find the same tasks, train the same way and write where the run looks.
FINETUNE_OPTIONS = (
    "tasks.",
    "finetuning_mode.",
    "model_location=",
    "data_location=",
    "prompts_location=",
    "cache_dir=",
    "pretrained=",
    "heads.",
)


def selected_tasks(config: DictConfig) -> list[Task]:
    """Return the tasks of DATASETS, or the first num_tasks of the list in tasks=. Raise UserError for unknown ones."""
    listed = config.DATASETS if config.DATASETS is not None else config.tasks.names
    names = [listed] if isinstance(listed, str) else list(listed) if isinstance(listed, ListConfig) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"DATASETS lists names of tasks, as in DATASETS=[MNIST,Cars]; got {listed}")
    if config.num_tasks is not None:
        if not is_whole(config.num_tasks, least=1) or config.num_tasks > len(names):
            raise UserError(f"num_tasks={config.num_tasks}, but there are {len(names)} tasks: {', '.join(names)}")
        names = names[: config.num_tasks]
    return _find(config, names, _task_options(config))


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
    problems = [
        f"finetuned= names {name}, which is no task of this run ({', '.join(all_names)})" for name in own if name not in all_names
    ]
    problems += [f"finetuned= says {name} is at {own[name]}, and nothing is there; check the path"
                 for name in names if name in own and not split_part(own[name])[0].exists()]  # fmt: skip
    missing = [name for name in names if name not in own and not paths.finetuned(name).exists()]
    if missing and not config.model.finetune_missing:
        files = " or ".join(f"<Task>Val/{file}" for file in file_names(paths.mode))
        download = _download_command(config)
        problems.append(
            f"no fine-tuned weights for {', '.join(missing)} in {paths.model} ({files}); "
            f"run {f'{download}, or ' if download else ''}{_finetune_command(config, missing)}, "
            "or name yours with 'finetuned={TASK: PATH}'"
        )
    return problems


def _missing_heads(config: DictConfig, paths: Paths, names: list[str]) -> list[str]:
    """Return a sentence if heads.source=published and some tasks have none."""
    if config.heads.source != "published":
        return []
    heads = build_heads(config, paths)
    missing = [name for name in names if heads.published_file(name) is None]
    download = _download_command(config)
    remedy = f"run {download}, or " if download else ""
    return [
        f"no published heads for {', '.join(missing)} in {paths.model} (head_<Task>Val.pt); {remedy}leave out heads.source"
    ] * bool(missing)


def _download_command(config: DictConfig) -> str | None:
    """Return the command that downloads this very model's checkpoints; None if nobody serves them."""
    model, mode = HydraConfig.get().runtime.choices.model, config.finetuning_mode.name
    is_served = model in SERVED_MODELS and config.model.pretrained == "openai" and mode in ("standard", "posthoc")
    return f"python download_checkpoints.py --model={model} --kind=checkpoints" if is_served else None


def _finetune_command(config: DictConfig, tasks: list[str]) -> str:
    """Return the command that fine-tunes this very model on tasks, in this run's mode."""
    model, mode = HydraConfig.get().runtime.choices.model, config.finetuning_mode.name
    own = [] if model == config.model.name else [quoted(f"model.{key}", config.model[key]) for key in ("name", "pretrained")]
    flag = [] if mode in ("standard", "posthoc") else [f"--finetuning-mode={mode}"]
    kept = [text for text in typed_overrides() if text.lstrip("+").startswith(FINETUNE_OPTIONS)]
    return " ".join(
        [
            f"python finetune.py --model={model}",
            *own,
            *flag,
            *map(shell_word, kept),
            shell_word(f"--train-dataset={','.join(tasks)}"),
        ]
    )


def missing_data(config: DictConfig, tasks: list[Task]) -> list[str]:
    """Return a sentence for each dataset that is missing and will not be downloaded."""
    return [problem for task in tasks if not (config.download and task.is_fetchable) for problem in task.problems()]


def fetch_data(config: DictConfig, tasks: list[Task], group: ProcessGroup) -> None:
    """Download the datasets that are missing, in the main process, for which all others wait."""
    if group.is_main:
        with ProgressBar(unit="B") as bar:
            require_data(tasks, config.download, bar)
    group.barrier()
