"""Forget each task by subtracting its task vector, and keep a control task (Ilharco et al., ICLR 2023).

    python eval_task_negation.py                                           the demo's tasks
    python eval_task_negation.py --finetuning-mode=linear --control-dataset=Letters
    python eval_task_negation.py --model=ViT-B-32 --control-threshold=0.95  the control is ImageNet

Of the coefficients that keep so much of the pre-trained model's control accuracy, each task gets the one with the lowest
accuracy, on validation data.
"""

import sys

import command_line
from command_line import Flag
from src.errors import raise_any
from src.negation import Negation, negated

FLAGS = (
    *command_line.BENCHMARK,
    Flag("control-dataset", None, "the task to keep; default: the one that tasks= names"),
    Flag("control-threshold", None, "the share of its accuracy that must be kept on validation data", "0.95"),
    *command_line.GRID,
)


def main() -> None:
    overrides, given = command_line.overrides_of(__doc__, FLAGS)
    config = command_line.composed(overrides)
    grid, problems = command_line.grid_of(given)
    threshold = command_line.number(given["control-threshold"])
    if threshold is None or not 0 <= threshold <= 1:
        problems.append(f"--control-threshold is a share, from 0 to 1; got {given['control-threshold']}")
    raise_any(problems)
    control = command_line.control_of(config, given["control-dataset"])
    targets = [task for task in command_line.selected_tasks(config) if task.name != control.name]
    with command_line.scoring(config, "eval_task_negation.py", sys.argv[1:], targets, [control]) as run:
        if not run:
            return
        count = run.measured.scorer.family.count
        for task in targets:
            run.progress.plan(sum(len(grid) * count(each, "val") + 2 * count(each, "test") for each in (task, control)))
        found = {task.name: negated(run.measured, task, control, grid, threshold) for task in targets}
        title = f"{command_line.model_name(config)}, {len(targets)} tasks negated"
        question = {"control": control.name, "control_threshold": threshold, "grid": grid}
        run.publish(Negation(tasks=found, control=control.name, **run.about(title, question)))


if __name__ == "__main__":
    sys.exit(command_line.run_plainly(main))
