"""Add the task vectors of one fine-tuning mode, with the best of 21 coefficients (Ortiz-Jimenez et al., NeurIPS 2023).

    python eval_task_addition.py --finetuning-mode=linear                  the demo's tasks
    python eval_task_addition.py --model=ViT-B-32 --finetuning-mode=linear-2 --n-eval-points=21 --max-coefficient=1.0
    python eval_task_addition.py --finetuning-mode=posthoc num_tasks=4     any option of main.py after the flags

This is `python main.py method=sum finetuning_mode=... method.grid=[...]`: accuracies are normalised by those that the same
mode's single-task models have, measured here.
"""

import json
import runpy
import sys

import command_line
from src.errors import raise_any


def main() -> None:
    overrides, given = command_line.overrides_of(__doc__, (*command_line.BENCHMARK, *command_line.GRID))
    grid, problems = command_line.grid_of(given)
    raise_any(problems)
    own = any(text.startswith(("method=", "method.grid=", "n_eval_points=")) for text in overrides)
    chosen = [f"method.grid={json.dumps(grid)}"] if not own or any(given.values()) else []  # a method may bring its own grid
    sys.argv = [str(command_line.ROOT / "main.py"), *chosen, *overrides]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    sys.exit(command_line.run_plainly(main))
