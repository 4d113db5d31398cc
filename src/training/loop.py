"""The one training loop: fine-tune a model family on one task, stopped at any time and continued to the same bits."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from src.errors import UserError
from src.models.family import PRECISIONS, Batch, ModelFamily, TaskLike
from src.models.modes import Mode
from src.models.trainable import Learner
from src.runtime.distributed import ALONE, Team
from src.runtime.memory import keep_freed_memory
from src.runtime.signals import Stopped, Stopping
from src.training.log import Log, Meter, Watch
from src.training.provenance import made_from, mismatch
from src.training.recipe import Order, Part, Recipe
from src.training.state import TrainingState, log_path, state_path


def _silent(*_: object) -> None:
    """For those who do not want to know."""


@dataclass(frozen=True)
class Workshop:
    """How a fine-tuning is done; apart from rounding, none of it changes what comes out.

    team: the processes that share each step; workers: processes of each of these that make its examples ahead, 0 for none;
    precision: of the model's passes, the weights being float32 throughout; save_minutes: between two states on disk;
    log_steps: between two lines of the log; plan: is told how many steps are to come; report: what is being done, and how
    many more steps are done; watch: is given each line of the log.
    """

    team: Team = ALONE
    workers: int = 0
    precision: str = "fp32"
    save_minutes: float = 5
    log_steps: int = 10
    plan: Callable[[int], None] = _silent
    report: Callable[[str, int], None] = _silent
    watch: Watch = _silent


def finetune(family: ModelFamily, task: TaskLike, recipe: Recipe, mode: Mode, path: Path, how: Workshop) -> None:
    """Fine-tune from the pre-trained weights, or from where an earlier run was stopped, and write the weights to `path`,
    which appears when they are complete.

    Raises Stopped at a signal to end, when the state is saved; UserError if the loss is no number any more, or if a state
    there is of another fine-tuning.
    """
    family.prepare(task)
    torch.manual_seed(recipe.seed)  # of adapters, which start at random
    learner, order, team = family.learner(mode), Order(len(task.examples("train")), recipe), how.team
    on_gpu = family.device.type == "cuda"
    if not on_gpu:
        keep_freed_memory()  # a tenth faster, the tangent model more
    optimizer = torch.optim.AdamW(learner.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=on_gpu)
    about = {"task": task.name, "model": family.name, "made_from": made_from(family, recipe, mode, task)}
    own = {"data": task.fingerprint("train"), "model_identity": family.identity, "precision": how.precision}
    state = TrainingState(state_path(path), learner, optimizer, {**about, **own})
    if different := mismatch(state.path, family, recipe, mode, task):
        raise UserError(different)
    start, what = state.load(), f"fine-tuning {family.name} on {task.name}"
    if any(other != (start, state.about) for other in team.gathered((start, state.about))):
        raise UserError(
            f"not all processes see the same files at {path.parent}; give locations on a disk that all machines share"
        )
    how.plan(order.steps)
    how.report(what, start)
    watchers = [how.watch, Log(log_path(path), start)] if team.leads else []
    meter, saved, told = Meter(order, how.log_steps, team.total), time.monotonic(), what
    steps = _steps(family, task, learner, optimizer, order, start, how)
    with Stopping() as stopping, contextlib.closing(steps):
        for step, loss in enumerate(steps, start=start + 1):
            if line := meter.after(step, loss):
                if not math.isfinite(line.loss):
                    raise UserError(_diverged(task, line.loss, state))
                for watch in watchers:
                    watch(line)
                told = f"{what}: {line}"
            how.report(told, 1)
            number = team.largest(stopping.number)
            if step == order.steps:
                break
            late = time.monotonic() - saved > 60 * how.save_minutes
            if team.leads and (number or late) and bool(torch.isfinite(loss)):
                state.save(step)
                saved = time.monotonic()
            if number:
                team.wait()
                raise Stopped(f"stopped {what} after {step} of {order.steps} steps; the same command goes on from there", number)
        if team.leads:
            learner.save(path, about)
            state.remove()
        if number := team.largest(stopping.number):  # which waits for all, too
            raise Stopped(f"stopped after {what}; the same command goes on with the next task", number)


def _diverged(task: TaskLike, loss: float, state: TrainingState) -> str:
    left = f", remove {state.path}," if state.path.exists() else ""
    return f"the loss on {task.name} became {loss}; lower model.recipe.lr{left} and try again"


def _steps(
    family: ModelFamily, task: TaskLike, learner: Learner, optimizer: torch.optim.AdamW, order: Order, start: int, how: Workshop
) -> Iterator[torch.Tensor]:
    """Take each optimiser step from `start` on; yields this process's share of its mean loss."""
    team, recipe = how.team, order.recipe
    shared = team.replicated(learner)
    ahead = (part.places for parts in order.parts(team.rank, team.size, start) for part in parts)
    batches = family.training_batches(task, ahead, recipe.seed, how.workers)
    for step, parts in enumerate(order.parts(team.rank, team.size, start), start=start):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step, order.steps)
        loss = torch.zeros((), device=family.device)
        for number, part in enumerate(parts, start=1):
            with contextlib.nullcontext() if number == len(parts) or team.size == 1 else shared.no_sync():
                loss = loss + _passed(family, shared, next(batches), part, how)
        torch.nn.utils.clip_grad_norm_(learner.values, recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss


def _passed(family: ModelFamily, shared: torch.nn.Module, batch: Batch, part: Part, how: Workshop) -> torch.Tensor:
    """One pass through the model and back; the part's share of the step's mean loss."""
    dtype = PRECISIONS[how.precision]
    with torch.autocast(family.device.type, dtype, enabled=dtype != torch.float32):
        loss = shared(batch) * part.weight
    (loss * how.team.size).backward()  # processes' gradients are averaged, and their losses add up
    return loss.detach()
