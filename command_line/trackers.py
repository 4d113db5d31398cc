"""Where figures go besides the screen and the files: Weights & Biases, TensorBoard."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from src.evaluation.search import Point
from src.experiments.record import Run
from src.runtime.distributed import Team
from src.training.log import Line, Watch
from src.training.recipe import Recipe

PROJECT = "merging"


@contextlib.contextmanager
def watched(config: DictConfig, team: Team, task: str, recipe: Recipe) -> Iterator[Watch]:
    """What tells the lines of one fine-tuning to those that are asked for with wandb.mode and tensorboard."""
    with contextlib.ExitStack() as opened:
        watchers: list[Watch] = []
        if team.leads and config.wandb.mode != "disabled":
            watchers.append(opened.enter_context(_online(config, task, recipe)))
        if team.leads and config.tensorboard:
            watchers.append(opened.enter_context(_on_board(config, task)))

        def watch(line: Line) -> None:
            for watcher in watchers:
                watcher(line)

        yield watch


@contextlib.contextmanager
def _online(config: DictConfig, task: str, recipe: Recipe) -> Iterator[Watch]:
    import wandb

    name = f"{config.model.name}-{config.finetuning_mode.name}-{task}"
    run = wandb.init(project=PROJECT, name=name, mode=config.wandb.mode, config=vars(recipe), reinit="finish_previous")
    try:
        yield lambda line: run.log(asdict(line), step=line.step)
    finally:
        run.finish()


@contextlib.contextmanager
def _on_board(config: DictConfig, task: str) -> Iterator[Watch]:
    from torch.utils.tensorboard import SummaryWriter

    mode = config.finetuning_mode.name
    folder = Path(config.results_dir).expanduser() / "tensorboard" / config.model.name / mode / task
    with SummaryWriter(str(folder)) as board:

        def watch(line: Line) -> None:
            for figure in ("loss", "lr", "images_per_second"):
                board.add_scalar(figure, getattr(line, figure), line.step)

        yield watch


def report_online(config: DictConfig, found: Run, curve: Sequence[Point] = ()) -> None:
    """Report what a run found to Weights & Biases if wandb.mode asks for it."""
    if config.wandb.mode == "disabled":
        return
    import wandb

    run = wandb.init(project=PROJECT, name=found.name, mode=config.wandb.mode, config=found.config)
    for point in curve:
        run.log({"coefficient": point.coefficient, "objective": point.objective})
    run.summary.update({kind: figures["mean"] for kind, figures in found.means().items()})
    run.finish()
