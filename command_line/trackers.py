"""Reports to Weights & Biases and TensorBoard."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from omegaconf import DictConfig

from command_line.paths import Paths
from src.evaluation.search import SearchPoint
from src.experiments.record import Result
from src.runtime.distributed import ProcessGroup
from src.training.log import LogCallback, LogEntry, ValidationEntry
from src.training.recipe import Recipe

PROJECT = "merging"


@contextlib.contextmanager
def trackers(
    config: DictConfig, paths: Paths, group: ProcessGroup, task: str, recipe: Recipe
) -> Iterator[tuple[LogCallback, ...]]:
    """Yield the log callbacks of one fine-tuning, as wandb.mode and tensorboard ask."""
    with contextlib.ExitStack() as stack:
        callbacks: list[LogCallback] = []
        if group.is_main and config.wandb.mode != "disabled":
            callbacks.append(stack.enter_context(_wandb(config, task, recipe)))
        if group.is_main and config.tensorboard:
            callbacks.append(stack.enter_context(_tensorboard(config, paths, task)))
        yield tuple(callbacks)


@contextlib.contextmanager
def _wandb(config: DictConfig, task: str, recipe: Recipe) -> Iterator[LogCallback]:
    import wandb

    name = f"{config.model.name}-{config.finetuning_mode.name}-{task}"
    run = wandb.init(project=PROJECT, name=name, mode=config.wandb.mode, config=vars(recipe), reinit="finish_previous")
    try:
        yield lambda entry: run.log(asdict(entry), step=entry.step)
    finally:
        run.finish()


@contextlib.contextmanager
def _tensorboard(config: DictConfig, paths: Paths, task: str) -> Iterator[LogCallback]:
    from torch.utils.tensorboard import SummaryWriter

    folder = paths.results / "tensorboard" / config.model.name / config.finetuning_mode.name / task
    with SummaryWriter(str(folder)) as writer:

        def log(entry: LogEntry | ValidationEntry) -> None:
            for figure, value in asdict(entry).items():
                if figure not in ("step", "steps", "epoch"):
                    writer.add_scalar(figure, value, entry.step)

        yield log


def report_run(config: DictConfig, result: Result, curve: Sequence[SearchPoint] = ()) -> None:
    """Report a run's result, and the points of its search, to Weights & Biases if wandb.mode asks for it."""
    if config.wandb.mode == "disabled":
        return
    import wandb

    run = wandb.init(project=PROJECT, name=result.name, mode=config.wandb.mode, config=result.config)
    for point in curve:
        run.log({"coefficient": point.coefficient, "objective": point.objective})
    run.summary.update({kind: figures["mean"] for kind, figures in result.means().items()})
    run.finish()
