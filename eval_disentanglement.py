"""Map the disentanglement error of two tasks' vectors over both coefficients (Ortiz-Jimenez et al., NeurIPS 2023).

    python eval_disentanglement.py                                         the first two tasks of the demo
    python eval_disentanglement.py --finetuning-mode=linear --eval-datasets=Digits,Arrows
    python eval_disentanglement.py --model=ViT-B-32 --eval-datasets=MNIST,DTD --max-images=1000 precision=bf16

The error at two coefficients is the sum over both tasks of the share of test predictions on which the model with both
vectors and the model with the task's own alone disagree. It is mapped over [-2, 2] squared.
"""

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

import command_line.interrupts  # noqa: F401  first: from here on, Ctrl-C ends the program in one line
from command_line.config import compose_config, model_name
from command_line.console import run_script
from command_line.flags import BENCHMARK, Flag, number, parse_flags
from command_line.preflight import selected_tasks
from command_line.session import session
from src.data.task import Task
from src.errors import collect, raise_any
from src.experiments.disentanglement import DisentanglementResult, disagreements

FLAGS = (
    *BENCHMARK,
    Flag("points", None, "coefficients in each direction; default: 21"),
    Flag("reach", None, "the largest coefficient, the smallest being its negative; default: 2.0"),
    Flag("max-images", None, "test examples of a task to look at, evenly spread; default: all"),
)


KIND = DisentanglementResult.kind


def question_of(config: DictConfig) -> tuple[list[str], dict]:
    """Return the names of the tasks that a run without further flags scores, and the options that decide its result."""
    flags = {flag.name: None for flag in FLAGS if not flag.option}
    return [task.name for task in selected_tasks(config)], _question(*grid_and_images(flags))


def _question(grid: Sequence[float], most: int | None) -> dict:
    return {"disentanglement": True, "grid": grid, "max_images": most}


def main() -> None:
    overrides, values = parse_flags(__doc__, FLAGS)
    if not any(text.startswith(("DATASETS=", "num_tasks=")) for text in overrides):
        overrides.append("num_tasks=2")
    config = compose_config(overrides)
    problems: list[str] = []
    tasks: list[Task] = []
    with collect(problems):
        grid, most = grid_and_images(values)
    with collect(problems):
        tasks = selected_tasks(config)
    if tasks and len(tasks) != 2:
        problems.append(f"disentanglement is of two tasks, such as --eval-datasets=MNIST,DTD; got {len(tasks)}")
    raise_any(problems)
    question = _question(grid, most)
    with session(config, "eval_disentanglement.py", sys.argv[1:], tasks, kind=KIND, question=question) as run:
        if run is None:
            return
        evaluator, run.progress.unit = run.evaluator, "pair"
        run.progress.plan(len(grid) ** 2 // run.group.size)
        shares = disagreements(evaluator, tasks, grid, most)
        if not run.group.is_main:
            return
        title = f"{model_name(config)}, {tasks[0].name} and {tasks[1].name}"
        about = run.about(title, run.precision_note, splits=["test"])
        run.publish(DisentanglementResult(grid=grid, shares=shares, **about))


def grid_and_images(values: dict[str, str | None]) -> tuple[list[float], int | None]:
    """Return the coefficients in each direction, and the images to look at. Raise UserError for all that is wrong at once."""
    points, reach, most = values["points"] or "21", number(values["reach"] or "2.0"), values["max-images"]
    problems = []
    if not points.isdecimal() or int(points) < 2:
        problems.append(f"--points counts coefficients from end to end, so it is at least 2; got {points}")
    if reach is None or reach <= 0:
        problems.append(f"--reach is a positive number; got {values['reach']}")
    if most is not None and (not most.isdecimal() or int(most) < 1):
        problems.append(f"--max-images is a positive whole number; got {most}")
    raise_any(problems)
    numbers = range(int(points))
    return [round(reach * (2 * index / (int(points) - 1) - 1), 12) for index in numbers], most and int(most)


if __name__ == "__main__":
    sys.exit(run_script(main))
