"""Fine-tune one model on each task of a list.

    python finetune.py --model=ViT-demo                                all tasks of the model's list
    python finetune.py --model=ViT-demo --train-dataset=Digits,Arrows  these tasks
    python finetune.py --model=ViT-demo model.recipe.lr=1e-4           any option of config/ after the flags

A task whose weights are there already is skipped; an unfinished one starts again.
"""

import argparse
import sys

import command_line


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
    tasks = command_line.selected_tasks(config)
    paths = {task.name: command_line.checkpoint_path(config, task.name) for task in tasks}
    for task, path in paths.items():
        if path.exists():
            print(f"{task} is fine-tuned already: {path}")
    missing = [task for task in tasks if not paths[task.name].exists()]
    if missing:
        family = command_line.build_family(config, command_line.device_of(config))
        command_line.finetune_all(config, family, missing)


if __name__ == "__main__":
    sys.exit(command_line.run_plainly(main))
