"""Fine-tune one model on each task of a list.

    python finetune.py --model=ViT-demo                                all tasks of the model's list
    python finetune.py --model=ViT-demo --train-dataset=Digits,Arrows  these tasks
    python finetune.py --finetuning-mode=linear-2 --world-size=2       attention matrices only, two processes
    python finetune.py --train-dataset=Digits,Arrows --mixture         one model on all of these
    python finetune.py epochs=1 lr=1e-4 save_minutes=1                 any option of config/ after the flags
    torchrun --nproc-per-node=8 finetune.py --model=ViT-L-14           on several GPUs or machines

A task whose weights are there already is skipped. One that was stopped goes on where it was: its state is saved every
few minutes (save_minutes=), and at SIGTERM, SIGUSR1 and Ctrl-C.
"""

import sys

import command_line.interrupts  # noqa: F401  first: from here on, Ctrl-C ends the program in one line
from command_line.build import build_device, build_family, build_mode, check_modality
from command_line.config import compose_config, validate
from command_line.console import run_script
from command_line.finetuning import finetune_all, remove_finished_states, without_weights
from command_line.flags import RECIPE, TRAINING, parse_flags
from command_line.launch import run_processes
from command_line.paths import paths_of
from command_line.preflight import fetch_data, missing_data, selected_tasks
from command_line.readers import FINETUNE, refuse_unread
from src.errors import UserError, raise_any
from src.models.family import ModelFamily
from src.models.mixture import Mixture
from src.models.modes import Mode
from src.runtime.distributed import init_distributed
from src.runtime.environment import is_distributed


def main() -> None:
    overrides, values = parse_flags(__doc__, TRAINING, RECIPE)
    config = compose_config(overrides)
    validate(config)
    refuse_unread(FINETUNE)
    if config.model.family is None:
        raise UserError(f"model={config.model.name} has no architecture to fine-tune; choose another of config/model")
    if config.finetuned is not None:
        raise UserError("finetune.py takes no finetuned=: leave it out (weights are written below model_location)")
    mode = build_mode(config)
    if mode.scored_linearized and not mode.trained_linearized:
        raise UserError(f"{mode.name} scores models that were fine-tuned as standard; use --finetuning-mode=standard here")
    tasks, paths = selected_tasks(config), paths_of(config)
    if values["mixture"] and len(tasks) < 2:
        raise UserError(f"--mixture is of several tasks, and {tasks[0].name} is one; name more with --train-dataset=A,B")
    check_modality(config, tasks)
    raise_any(missing_data(config, tasks))
    if (config.world_size or 1) > 1 and not is_distributed():
        run_processes("finetune.py", sys.argv[1:], config.world_size)
        return
    group = init_distributed()
    family = build_family(config, paths, build_device(config))
    fetch_data(config, tasks, group)
    targets = [Mixture(tasks)] if values["mixture"] else tasks
    missing = without_weights(config, paths, family, targets)
    if group.is_main:
        finetuned = [task for task in targets if task not in missing]
        remove_finished_states(paths, finetuned)
        for task in finetuned:
            print(f"{task.name} is fine-tuned already: {paths.finetuned(task.name)}")
        print(what_trains(family, mode), flush=True)
    finetune_all(config, paths, family, missing, group)


def what_trains(family: ModelFamily, mode: Mode) -> str:
    """Return a sentence on how many of the network's parameters train in this mode."""
    trainable, through = family.trainable(mode), " through LoRA" if mode.lora else ""
    return f"{mode.name}: {trainable.count:,} parameters train ({mode.trains}{through}), the network has {trainable.total:,}"


if __name__ == "__main__":
    sys.exit(run_script(main))
