"""The one training loop: fine-tune a model family on one task, stopped at any time and continued to the same bits."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from src.errors import UserError
from src.models.family import PRECISIONS, Batch, ModelFamily, TaskLike, Trainable
from src.models.loader import seed_of
from src.models.mixture import Mixture
from src.models.modes import Mode
from src.runtime.distributed import SINGLE, ProcessGroup
from src.runtime.memory import keep_freed_memory
from src.runtime.progress import SILENT, Progress
from src.runtime.signals import StopRequested, StopSignal
from src.training.best import BestWeights, validation_score
from src.training.log import LogCallback, LossMeter, TrainingLog, ValidationEntry
from src.training.provenance import mismatch, training_provenance
from src.training.recipe import Recipe
from src.training.schedule import BatchSchedule, MicroBatch
from src.training.state import TrainingState, log_path, state_path


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a fine-tuning that change nothing but rounding.

    group: processes that share each step.
    workers: processes of each of these that load its examples in advance, 0 for none.
    precision: of the model's passes; the weights are float32 throughout.
    save_minutes: minutes between two states on disk.
    log_steps: steps between two log entries.
    progress: listener, in steps.
    log_callbacks: further listeners, given each log entry.
    """

    group: ProcessGroup = SINGLE
    workers: int = 0
    precision: str = "fp32"
    save_minutes: float = 5
    log_steps: int = 10
    progress: Progress = SILENT
    log_callbacks: tuple[LogCallback, ...] = ()


def finetune(
    family: ModelFamily, task: TaskLike | Mixture, recipe: Recipe, mode: Mode, path: Path, settings: TrainingSettings
) -> None:
    """Fine-tune from the pre-trained weights, or from a saved state, and write the weights to `path` when complete.

    Raise StopRequested at a signal to end, when the state is saved; UserError if the loss is no number any more, or if a
    state there is of another fine-tuning.
    """
    family.prepare(task)
    torch.manual_seed(recipe.seed)  # of adapters, which start at random
    trainable, schedule, group = family.trainable(mode), BatchSchedule(len(task.training_examples()), recipe), settings.group
    on_gpu = family.device.type == "cuda"
    if not on_gpu:
        keep_freed_memory()  # a tenth faster, the tangent model more
    optimizer = torch.optim.AdamW(trainable.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=on_gpu)
    about = {"task": task.name, "model": family.name, "made_from": training_provenance(family, recipe, mode, task)}
    inputs = {"data": task.fingerprint("train"), "model_identity": family.identity, "precision": settings.precision}
    best = BestWeights(trainable, recipe, partial(validation_score, family, task, group=group))
    state = TrainingState(state_path(path), trainable, optimizer, {**about, **inputs}, best)
    if problem := mismatch(state.path, family, recipe, mode, task):
        raise UserError(problem)
    start, what = state.load(), f"fine-tuning {family.name} on {task.name}"
    if any(other != (start, state.about) for other in group.all_gather((start, state.about))):
        raise UserError(
            f"not all processes see the same files at {path.parent}; give locations on a disk that all machines share"
        )
    settings.progress.plan(schedule.steps)
    settings.progress.report(what, start)
    callbacks = [*settings.log_callbacks, TrainingLog(log_path(path), start)] if group.is_main else []
    meter, last_saved, latest = LossMeter(schedule, settings.log_steps, group.all_reduce_sum), time.monotonic(), what
    steps = _steps(family, task, trainable, optimizer, schedule, start, settings)
    with StopSignal() as stop, contextlib.closing(steps):
        for step, (loss, norm) in enumerate(steps, start=start + 1):
            if entry := meter.update(step, loss):
                if not math.isfinite(entry.loss):
                    raise UserError(_diverged(task, entry.loss, state))
                for callback in callbacks:
                    callback(entry)
                latest = f"{what}: {entry}"
            settings.progress.report(latest, 1)
            signal = group.all_reduce_max(stop.number)
            if best.update(step):
                evaluated = ValidationEntry(step, best.latest, best.score)
                for callback in callbacks:
                    callback(evaluated)
                latest = f"{what}: {evaluated}"
            is_last, is_due = step == schedule.steps or best.is_over, time.monotonic() - last_saved > 60 * settings.save_minutes
            if (signal or (is_last and not best.entries)) and not torch.isfinite(norm):  # of the group: all processes raise
                raise UserError(_diverged(task, math.nan, state))
            if is_last:
                break
            if group.is_main and (signal or is_due) and torch.isfinite(norm):
                state.save(step)
                last_saved = time.monotonic()
            if signal:
                group.barrier()
                message = f"stopped {what} after {step} of {schedule.steps} steps; the same command goes on from there"
                raise StopRequested(message, signal)
        best.restore()
        if group.is_main:
            trainable.save(path, {**about, **best.facts})
            state.remove()
        if signal := group.all_reduce_max(stop.number):  # which waits for all, too
            raise StopRequested(f"stopped after {what}; the same command goes on with the next task", signal)


def _diverged(task: TaskLike, loss: float, state: TrainingState) -> str:
    remove = f", remove {state.path}," if state.path.exists() else ""
    return f"the loss on {task.name} became {loss}; lower model.recipe.lr{remove} and try again"


def _steps(
    family: ModelFamily,
    task: TaskLike,
    trainable: Trainable,
    optimizer: torch.optim.AdamW,
    schedule: BatchSchedule,
    start: int,
    settings: TrainingSettings,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Take each optimiser step from `start` on; yield this process's share of its mean loss, and the gradients' norm."""
    group, recipe = settings.group, schedule.recipe
    module = group.data_parallel(trainable)
    batch_ids = (batch.examples for step in schedule.micro_batches(group.rank, group.size, start) for batch in step)
    batches = family.training_batches(task, batch_ids, recipe.seed, settings.workers)
    for step, micro_batches in enumerate(schedule.micro_batches(group.rank, group.size, start), start=start):
        torch.manual_seed(seed_of(recipe.seed, step, group.rank))  # of layers that drop units, patches or paths
        for parameters in optimizer.param_groups:
            parameters["lr"] = recipe.rate(step, schedule.steps)
        loss = torch.zeros((), device=family.device)
        for number, micro_batch in enumerate(micro_batches, start=1):
            with contextlib.nullcontext() if number == len(micro_batches) or group.size == 1 else module.no_sync():
                loss = loss + _backward(family, module, next(batches), micro_batch, settings)
        norm = torch.nn.utils.clip_grad_norm_(trainable.values, recipe.max_grad_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss, norm


def _backward(
    family: ModelFamily, module: nn.Module, batch: Batch, micro_batch: MicroBatch, settings: TrainingSettings
) -> Tensor:
    """Pass a batch through the model and back; return the micro-batch's share of the step's mean loss."""
    dtype = PRECISIONS[settings.precision]
    with torch.autocast(family.device.type, dtype, enabled=dtype != torch.float32):
        loss = module(batch) * micro_batch.weight
    (loss * settings.group.size).backward()  # processes' gradients are averaged, and their losses add up
    return loss.detach()
