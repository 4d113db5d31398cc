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
from src.errors import added_to, raise_any
from src.experiments.negation import Negation, all_negated, lost

FLAGS = (
    *command_line.BENCHMARK,
    Flag("control-dataset", None, "the task to keep; default: the one that tasks= names"),
    Flag("control-threshold", None, "the share of its accuracy that must be kept on validation data; default: 0.95"),
    *command_line.GRID,
)


def main() -> None:
    overrides, given = command_line.overrides_of(__doc__, FLAGS)
    config = command_line.composed(overrides)
    grid, problems = command_line.grid_of(given)
    threshold = command_line.number(given["control-threshold"] or "0.95")
    if threshold is None or not 0 <= threshold <= 1:
        problems.append(f"--control-threshold is a share, from 0 to 1; got {given['control-threshold']}")
    listed, controls = [], []
    with added_to(problems):
        controls = [command_line.control_of(config, given["control-dataset"])]
    with added_to(problems):
        listed = command_line.selected_tasks(config)
    targets = [task for task in listed if task.name not in [control.name for control in controls]]
    if listed and controls and not targets:
        problems.append(f"{controls[0].name} is the control and the only task; name others to forget, or another control")
    raise_any(problems)
    with command_line.session(config, "eval_task_negation.py", sys.argv[1:], targets, controls) as run:
        if not run:
            return
        (control,) = controls
        run.plan({(control.name, "val"): len(grid) * len(targets), (control.name, "test"): 2 * len(targets)})
        run.plan({(task.name, split): models for task in targets for split, models in (("val", len(grid)), ("test", 2))})
        found = all_negated(run.measured, targets, control, grid, threshold)
        counted = f"{len(targets)} tasks" if len(targets) > 1 else targets[0].name
        title = f"{command_line.model_name(config)}, {counted} negated"
        question = {"control": control.name, "control_threshold": threshold, "grid": grid}
        about = run.about(title, question, lost(found, control.name, threshold))
        run.publish(Negation(tasks=found, control=control.name, **about))


if __name__ == "__main__":
    sys.exit(command_line.run_plainly(main))
