"""Forget each task by subtracting its task vector, and keep a control task (Ilharco et al., ICLR 2023).

    python eval_task_negation.py                                           the demo's tasks
    python eval_task_negation.py --finetuning-mode=linear --control-dataset=Letters
    python eval_task_negation.py --model=ViT-B-32 --control-threshold=0.95  the control is ImageNet

Of the coefficients that keep at least --control-threshold of the pre-trained model's control accuracy, each task gets the
one with the lowest accuracy on that task; both are measured on validation data.
"""

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

import command_line.interrupts  # noqa: F401  first: from here on, Ctrl-C ends the program in one line
from command_line.config import compose_config, model_name
from command_line.console import run_script
from command_line.flags import BENCHMARK, GRID, Flag, grid_of, number, parse_flags
from command_line.preflight import control_task, selected_tasks
from command_line.session import session
from src.errors import collect, raise_any
from src.experiments.negation import NegationResult, control_losses, negate_all

FLAGS = (
    *BENCHMARK,
    Flag("control-dataset", None, "the task to keep; default: the one that tasks= names"),
    Flag("control-threshold", None, "the share of its accuracy that must be kept on validation data; default: 0.95"),
    *GRID,
)


KIND = NegationResult.kind
THRESHOLD = 0.95


def question_of(config: DictConfig) -> tuple[list[str], dict]:
    """Return the names of all tasks that a run without further flags scores, and the options that decide its result."""
    control, grid = control_task(config, None).name, grid_of(dict.fromkeys(flag.name for flag in GRID))[0]
    return [*(task.name for task in selected_tasks(config) if task.name != control), control], _question(control, THRESHOLD, grid)


def _question(control: str, threshold: float, grid: Sequence[float]) -> dict:
    return {"control": control, "control_threshold": threshold, "grid": grid}


def main() -> None:
    overrides, values = parse_flags(__doc__, FLAGS)
    config = compose_config(overrides)
    grid, problems = grid_of(values)
    threshold = number(values["control-threshold"] or str(THRESHOLD))
    if threshold is None or not 0 <= threshold <= 1:
        problems.append(f"--control-threshold is a share, from 0 to 1; got {values['control-threshold']}")
    tasks, controls = [], []
    with collect(problems):
        controls = [control_task(config, values["control-dataset"])]
    with collect(problems):
        tasks = selected_tasks(config)
    targets = [task for task in tasks if task.name not in [control.name for control in controls]]
    if tasks and controls and not targets:
        problems.append(f"{controls[0].name} is the control and the only task; name others to forget, or another control")
    raise_any(problems)
    question = _question(controls[0].name, threshold, grid)
    with session(config, "eval_task_negation.py", sys.argv[1:], targets, controls, kind=KIND, question=question) as run:
        if run is None:
            return
        evaluator, (control,) = run.evaluator, controls
        run.plan({(control.name, "val"): len(grid) * len(targets), (control.name, "test"): 2 * len(targets)})
        run.plan({(task.name, split): models for task in targets for split, models in (("val", len(grid)), ("test", 2))})
        negations = negate_all(evaluator, targets, control, grid, threshold)
        if not run.group.is_main:
            return
        target_names = f"{len(targets)} tasks" if len(targets) > 1 else targets[0].name
        notes = [*control_losses(negations, control.name, threshold), *run.precision_note]
        about = run.about(f"{model_name(config)}, {target_names} negated", notes)
        run.publish(NegationResult(tasks=negations, control=control.name, **about))


if __name__ == "__main__":
    sys.exit(run_script(main))
