"""Fine-tune the tasks whose weights are missing, as the configuration says."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import torch
from omegaconf import DictConfig

from command_line.build import build_mode, build_recipe, workers_of
from command_line.console import ProgressBar
from command_line.paths import Paths
from command_line.trackers import trackers
from src.data.task import Task
from src.errors import UserError, plural, raise_any
from src.models.family import ModelFamily
from src.runtime.distributed import ProcessGroup
from src.runtime.environment import local_world_size
from src.runtime.files import locked
from src.training.loop import TrainingSettings, finetune
from src.training.provenance import is_finetuned_here, mismatch, same_provenance
from src.training.state import state_path


def finetune_missing(config: DictConfig, paths: Paths, family: ModelFamily, tasks: Sequence[Task], group: ProcessGroup) -> None:
    """Fine-tune on each task without weights. Raise UserError for weights, or unfinished states, of another provenance."""
    missing = without_weights(config, paths, family, tasks)
    group.barrier()  # all have looked before the first writes
    if group.is_main:
        remove_finished_states(paths, [task for task in tasks if task not in missing])
    finetune_all(config, paths, family, missing, group)


def remove_finished_states(paths: Paths, finetuned: Sequence[Task]) -> None:
    """Remove the states of tasks whose weights are there: left by processes that were killed at their very end."""
    for task in finetuned:
        weights = paths.finetuned(task.name)
        file = state_path(weights)
        if task.name not in paths.user_finetuned and file.exists() and same_provenance(weights, file):
            file.unlink(missing_ok=True)  # by another run that is at its end


def without_weights(config: DictConfig, paths: Paths, family: ModelFamily, tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks without fine-tuned weights, under overwrite=true also those whose weights are to be replaced.

    Raise UserError for all whose weights, or unfinished states, have another provenance than this configuration's.
    """
    files, mode = {task.name: paths.finetuned(task.name) for task in tasks}, build_mode(config)
    missing, problems = [], []
    for task in tasks:
        weights, is_own = files[task.name], task.name in paths.user_finetuned
        file = weights if weights.exists() else state_path(weights)
        different = None
        if file.exists() and is_finetuned_here(file):
            different = mismatch(file, family, build_recipe(config, task.name), mode, task)
        if different and (is_own or not config.overwrite):
            problems.append(
                f"finetuned={{{task.name}: ...}}: {different.partition(';')[0]}; name others" if is_own else different
            )
        elif not is_own and (different or not weights.exists()):
            missing.append(task)
    raise_any(problems)
    return missing


def finetune_all(config: DictConfig, paths: Paths, family: ModelFamily, tasks: Sequence[Task], group: ProcessGroup) -> None:
    """Fine-tune on each task, together with the group, and write its weights where they are looked for."""
    recipes, mode = {task.name: build_recipe(config, task.name) for task in tasks}, build_mode(config)
    if tasks and family.device.type == "cuda" and local_world_size() > torch.cuda.device_count():
        gpus = plural(torch.cuda.device_count(), "GPU")
        raise UserError(f"{local_world_size()} processes cannot fine-tune on {gpus}; lower world_size")
    names = [task.name for task in tasks]
    if any(other_names != names for other_names in group.all_gather(names)):
        raise UserError("not all processes see the same weights; give a model_location on a disk that all machines share")
    for number, task in enumerate(tasks, start=1):
        path = paths.finetuned(task.name)
        on_wait = partial(print, f"waiting for another run that fine-tunes {config.model.name} on {task.name}", file=sys.stderr)
        with (
            locked(state_path(path), on_wait) if group.is_main else nullcontext(),
            ProgressBar(f"{number} of {len(tasks)}: ", "step", silent=not group.is_main) as progress,
            trackers(config, paths, group, task.name, recipes[task.name]) as log_callbacks,
        ):
            settings = TrainingSettings(
                group=group,
                workers=config.workers or (workers_of(config) if family.device.type == "cuda" else 1),
                precision=training_precision(config, family.device),
                save_minutes=config.save_minutes,
                log_steps=config.log_steps,
                progress=progress,
                log_callbacks=log_callbacks,
            )
            different = partial(mismatch, family=family, recipe=recipes[task.name], mode=mode, task=task)
            if config.overwrite and group.is_main and different(state_path(path)):
                state_path(path).unlink()
            problem = different(path)
            if problem and not config.overwrite:
                raise UserError(problem)
            by_another_run = group.all_gather(path.exists() and not problem)[0]
            if not by_another_run:
                finetune(family, task, recipes[task.name], mode, path, settings)
        if group.is_main and not by_another_run:
            print(f"fine-tuned {config.model.name} on {task.name}: {path}", flush=True)


def training_precision(config: DictConfig, device: torch.device) -> str:
    """Return the precision of fine-tuning: the user's, or bf16 on a GPU and fp32 on a CPU."""
    return config.train_precision or ("bf16" if device.type == "cuda" else "fp32")
