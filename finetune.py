"""Fine-tune one model on each task of a list.

    python finetune.py --model=ViT-demo                                all tasks of the model's list
    python finetune.py --model=ViT-demo --train-dataset=Digits,Arrows  these tasks
    python finetune.py --model=ViT-demo model.recipe.lr=1e-4           any option of config/ after the flags

A task whose weights are there already is skipped; an unfinished one starts again.
"""

import argparse
import sys

import command_line
from src.errors import UserError, raise_any
from src.team import ALONE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-demo", help="a name from config/model")
    parser.add_argument("--train-dataset", help="task names with commas between them; default: the model's list")
    parser.add_argument("overrides", nargs="*", help="key=value, as main.py takes them")
    options = parser.parse_intermixed_args()
    overrides = [f"model={options.model}", *options.overrides]
    if options.train_dataset:
        overrides.append(f"DATASETS=[{options.train_dataset}]")
    config = command_line.composed(overrides)
    if config.model.family is None:
        raise UserError(f"--model={options.model} has no architecture to fine-tune; choose another of config/model")
    tasks = command_line.selected_tasks(config)
    raise_any(command_line.missing_data(config, tasks))
    family = command_line.build_family(config, command_line.device_of(config))
    command_line.fetch_data(config, tasks, ALONE)
    missing = command_line.unfinished(config, family, tasks)
    for task in tasks:
        if task not in missing:
            print(f"{task.name} is fine-tuned already: {command_line.checkpoint_path(config, task.name)}")
    command_line.finetune_all(config, family, missing)


if __name__ == "__main__":
    sys.exit(command_line.run_plainly(main))
