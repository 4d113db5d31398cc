"""Map how two tasks' vectors disturb each other when both are added (Ortiz-Jimenez et al., NeurIPS 2023).

    python eval_disentanglement.py                                         the first two tasks of the demo
    python eval_disentanglement.py --finetuning-mode=linear --eval-datasets=Digits,Arrows
    python eval_disentanglement.py --model=ViT-B-32 --eval-datasets=MNIST,DTD --max-images=1000 precision=bf16

The error at two coefficients is the sum over both tasks of the share of test predictions on which the model with both
vectors and the model with the task's own alone disagree. It is mapped over [-2, 2] squared.
"""

import sys

import command_line
from command_line import Flag
from src.data.task import Task
from src.errors import added_to, raise_any
from src.experiments.disentanglement import Disentanglement, disagreements

FLAGS = (
    *command_line.BENCHMARK,
    Flag("points", None, "coefficients in each direction; default: 21"),
    Flag("reach", None, "the largest coefficient, the smallest being its negative; default: 2.0"),
    Flag("max-images", None, "test images of a task to look at, evenly spread; default: all"),
)


def main() -> None:
    overrides, given = command_line.overrides_of(__doc__, FLAGS)
    if not any(text.startswith(("DATASETS=", "num_tasks=")) for text in overrides):
        overrides.append("num_tasks=2")
    config = command_line.composed(overrides)
    problems: list[str] = []
    tasks: list[Task] = []
    with added_to(problems):
        grid, most = map_of(given)
    with added_to(problems):
        tasks = command_line.selected_tasks(config)
    if tasks and len(tasks) != 2:
        problems.append(f"disentanglement is of two tasks, such as --eval-datasets=MNIST,DTD; got {len(tasks)}")
    raise_any(problems)
    with command_line.session(config, "eval_disentanglement.py", sys.argv[1:], tasks) as run:
        if not run:
            return
        run.progress.unit = "pair"
        run.progress.plan(len(grid) ** 2 // run.team.size)
        shares = disagreements(run.measured, tasks, grid, most)
        title = f"{command_line.model_name(config)}, {tasks[0].name} and {tasks[1].name}"
        about = run.about(title, {"disentanglement": True, "grid": grid, "max_images": most}, splits=["test"])
        found = Disentanglement(grid=grid, shares=shares, **about)
        folder = run.publish(found)
    if folder:
        from src.reports.figures import draw_disentanglement  # matplotlib is slow to import, and errors come before

        draw_disentanglement(found, folder / "disentanglement.png")
        print(folder / "disentanglement.png")


def map_of(given: dict[str, str | None]) -> tuple[list[float], int | None]:
    """The coefficients in each direction, and how many images to look at. UserError for all that is wrong at once."""
    points, reach, most = given["points"] or "21", command_line.number(given["reach"] or "2.0"), given["max-images"]
    problems = []
    if not points.isdecimal() or int(points) < 2:
        problems.append(f"--points counts coefficients from end to end, so it is at least 2; got {points}")
    if reach is None or reach <= 0:
        problems.append(f"--reach is a positive number; got {given['reach']}")
    if most is not None and (not most.isdecimal() or int(most) < 1):
        problems.append(f"--max-images is a positive whole number; got {most}")
    raise_any(problems)
    numbers = range(int(points))
    return [round(reach * (2 * place / (int(points) - 1) - 1), 12) for place in numbers], most and int(most)


if __name__ == "__main__":
    sys.exit(command_line.run_plainly(main))
