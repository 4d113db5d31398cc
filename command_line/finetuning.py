"""Fine-tuned weights that are not there yet, from configuration."""

from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from command_line.console import Progress
from command_line.models import checkpoint_path, checkpoint_paths, mode_of, workers_of
from command_line.trackers import watched
from src.data.task import Task
from src.errors import UserError, raise_any
from src.models.family import ModelFamily
from src.runtime.distributed import Team, members_here
from src.training.loop import Workshop, finetune
from src.training.provenance import is_made_here, mismatch
from src.training.recipe import Recipe
from src.training.state import state_path


def require_checkpoints(config: DictConfig, family: ModelFamily, tasks: list[Task], team: Team) -> None:
    """Fine-tune what is missing, where the model's configuration allows it. UserError for weights of another origin."""
    finetune_all(config, family, unfinished(config, family, tasks), team)


def unfinished(config: DictConfig, family: ModelFamily, tasks: list[Task]) -> list[Task]:
    """The tasks without weights. UserError for all whose weights, or unfinished states, were made another way than would be
    done now."""
    paths, mode = checkpoint_paths(config, (task.name for task in tasks)), mode_of(config)

    def different(task: Task, path: Path) -> str | None:
        return mismatch(path, family, recipe_of(config, task.name), mode, task) if is_made_here(path) else None

    missing = [task for task in tasks if not paths[task.name].exists()]
    states = {task: state_path(paths[task.name]) for task in missing}
    problems = [different(task, paths[task.name]) for task in tasks if task not in states]
    problems += [different(task, path) for task, path in states.items() if path.exists()]
    raise_any(filter(None, problems))
    for task in tasks:
        if task not in states:
            state_path(paths[task.name]).unlink(missing_ok=True)  # left by a process that was killed at its very end
    return missing


def recipe_of(config: DictConfig, task: str) -> Recipe:
    """How the model is fine-tuned on a task: the model's recipe, for as many epochs as the task wants if it has none."""
    epochs = config.model.recipe.epochs
    if epochs is None:
        epochs = config.tasks[task].get("epochs") if task in config.tasks else None
    if epochs is None:
        raise UserError(f"nothing says how long to fine-tune on {task}: give tasks.{task}.epochs=N or model.recipe.epochs=N")
    return instantiate(config.model.recipe, epochs=epochs)


def finetune_all(config: DictConfig, family: ModelFamily, tasks: list[Task], team: Team) -> None:
    """Fine-tune each task, together with the team, and write its weights where they are looked for."""
    recipes, mode = {task.name: recipe_of(config, task.name) for task in tasks}, mode_of(config)
    if tasks and family.device.type == "cuda" and members_here() > torch.cuda.device_count():
        raise UserError(f"{members_here()} processes cannot fine-tune on {torch.cuda.device_count()} GPUs; lower world_size")
    if any(names != [task.name for task in tasks] for names in team.gathered([task.name for task in tasks])):
        raise UserError("not all processes see the same weights; give a model_location on a disk that all machines share")
    for number, task in enumerate(tasks, start=1):
        path = checkpoint_path(config, task.name)
        with (
            Progress(f"{number} of {len(tasks)}: ", "step", silent=not team.leads) as progress,
            watched(config, team, task.name, recipes[task.name]) as watch,
        ):
            how = Workshop(
                team=team,
                workers=config.workers or (workers_of(config) if family.device.type == "cuda" else 1),
                precision=training_precision(config, family.device),
                save_minutes=config.save_minutes,
                log_steps=config.log_steps,
                plan=progress.plan,
                report=progress.report,
                watch=watch,
            )
            finetune(family, task, recipes[task.name], mode, path, how)
        if team.leads:
            print(f"fine-tuned {config.model.name} on {task.name}: {path}", flush=True)


def training_precision(config: DictConfig, device: torch.device) -> str:
    """What is asked for, or what a device is fast and safe in."""
    return config.train_precision or ("bf16" if device.type == "cuda" else "fp32")
