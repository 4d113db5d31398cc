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

import command_line.interrupts  # noqa: F401  first: from here on, Ctrl-C ends the program in one line
from command_line.config import ROOT
from command_line.console import run_script
from command_line.flags import BENCHMARK, GRID, grid_of, parse_flags
from src.errors import raise_any


def main() -> None:
    overrides, values = parse_flags(__doc__, (*BENCHMARK, *GRID))
    grid, problems = grid_of(values)
    raise_any(problems)
    is_own = any(text.startswith(("method=", "method.grid=", "n_eval_points=")) for text in overrides)
    grids = [f"method.grid={json.dumps(grid)}"] if not is_own or any(values.values()) else []  # a method may bring its own
    sys.argv = [str(ROOT / "main.py"), *grids, *overrides]  # Hydra reads the command line itself
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    sys.exit(run_script(main))
