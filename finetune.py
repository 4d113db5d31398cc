"""Fine-tune one model on each task of a list.

    python finetune.py --model=ViT-demo                                all tasks of the model's list
    python finetune.py --model=ViT-demo --train-dataset=Digits,Arrows  these tasks
    python finetune.py --finetuning-mode=linear-2 --world-size=2       attention matrices only, two processes
    python finetune.py epochs=1 lr=1e-4 save_minutes=1                 any option of config/ after the flags
    torchrun --nproc-per-node=8 finetune.py --model=ViT-L-14           on several GPUs or machines

A task whose weights are there already is skipped. One that was stopped goes on where it was: its state is saved every
few minutes (save_minutes=), and at SIGTERM, SIGUSR1 and Ctrl-C.
"""

import sys

import command_line
from command_line.flags import RECIPE, TRAINING
from src.errors import UserError, raise_any
from src.models.family import ModelFamily
from src.models.modes import Mode
from src.runtime.distributed import is_member, join


def main() -> None:
    overrides, _ = command_line.overrides_of(__doc__, TRAINING, RECIPE)
    config = command_line.composed(overrides)
    command_line.check_choices(config)
    if config.model.family is None:
        raise UserError(f"model={config.model.name} has no architecture to fine-tune; choose another of config/model")
    if config.finetuned is not None:
        raise UserError("finetuned= names weights that are there; fine-tuned ones are written below model_location")
    mode = command_line.mode_of(config)
    if mode.scored_linearized and not mode.trained_linearized:
        raise UserError(f"{mode.name} scores models that were fine-tuned as standard; use --finetuning-mode=standard here")
    tasks = command_line.selected_tasks(config)
    raise_any(command_line.missing_data(config, tasks))
    if (config.world_size or 1) > 1 and not is_member():
        command_line.started_together("finetune.py", sys.argv[1:], config.world_size)
        return
    team = join()
    family = command_line.build_family(config, command_line.device_of(config))
    command_line.fetch_data(config, tasks, team)
    missing = command_line.unfinished(config, family, tasks)
    if team.leads:
        for task in tasks:
            if task not in missing:
                print(f"{task.name} is fine-tuned already: {command_line.checkpoint_path(config, task.name)}")
        print(what_trains(family, mode), flush=True)
    command_line.finetune_all(config, family, missing, team)


def what_trains(family: ModelFamily, mode: Mode) -> str:
    """How many parameters do, and of how many."""
    learner, adapted = family.learner(mode), " through LoRA" if mode.lora else ""
    return f"{mode.name}: {learner.count:,} parameters train ({mode.trains}{adapted}), the image tower has {learner.whole:,}"


if __name__ == "__main__":
    sys.exit(command_line.run_plainly(main))
