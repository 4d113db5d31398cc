"""Flags as the papers' scripts have them, turned into the overrides that the configuration takes."""

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from src.models.modes import TRAINS
from src.training.recipe import Recipe

RECIPE = [field.name for field in fields(Recipe)]


@dataclass(frozen=True)
class Flag:
    """`--name=value` for `option=value`; where there is no option, the script reads the value itself."""

    name: str
    option: str | None
    help: str
    default: str | None = None


MODEL = (
    Flag("model", "model", "a name from config/model", "ViT-demo"),
    Flag("finetuning-mode", "finetuning_mode", "standard, linear, linear-2, lora or posthoc; default: standard"),
    Flag("world-size", "world_size", "processes that share the work on this machine, one a GPU"),
    Flag("data-location", "data_location", "of datasets"),
    Flag("save", "model_location", "of pre-trained and fine-tuned weights"),
    Flag("cache-dir", "cache_dir", "of what need not be computed again"),
)
TASKS = "task names with commas between them; default: the model's list"
GRID = (
    Flag("n-eval-points", None, "coefficients to try, from 0 on; default: 21"),
    Flag("max-coefficient", None, "the largest of them; default: 1.0"),
)
BENCHMARK = (*MODEL, Flag("eval-datasets", "DATASETS", TASKS), Flag("batch-size", "batch_size", "images scored together"))
TRAINING = (
    *MODEL,
    Flag("train-dataset", "DATASETS", TASKS),
    Flag("epochs", "model.recipe.epochs", "passes over the training data"),
    Flag("lr", "model.recipe.lr", "the highest learning rate"),
    Flag("wd", "model.recipe.weight_decay", "AdamW's weight decay"),
    Flag("warmup-length", "model.recipe.warmup_steps", "optimiser steps of warm-up"),
    Flag("batch-size", "model.recipe.batch_size", "images that go through the model together, in all processes"),
    Flag("num-grad-accumulation", "model.recipe.num_grad_accumulation", "how many of these batches an optimiser step sees"),
    Flag("seed", "model.recipe.seed", "of the order and augmentation of images"),
    Flag("trains", "finetuning_mode.trains", f"what trains: {', '.join(TRAINS)}"),
)


def overrides_of(about: str, flags: Sequence[Flag], short: Sequence[str] = ()) -> tuple[list[str], dict[str, str | None]]:
    """The overrides that the command line stands for, and the values of flags without an option, by flag.

    Overrides that are given as such come last; of those, the names in `short` belong to the model's recipe.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in flags:
        parser.add_argument(f"--{flag.name}", dest=flag.name, default=flag.default, metavar="VALUE", help=flag.help)
    parser.add_argument("overrides", nargs="*", help="key=value, any option of main.py (python main.py --help)")
    given = vars(parser.parse_intermixed_args())
    further = [re.sub(r"^(\w+)=", lambda key: f"model.recipe.{key[1]}=" if key[1] in short else key[0], text)
               for text in given["overrides"]]  # fmt: skip
    named = {text.split("=")[0].lstrip("+~") for text in further}
    overrides = [f"{flag.option}={_value(flag, given[flag.name])}" for flag in flags
                 if flag.option and given[flag.name] is not None and flag.option not in named]  # fmt: skip
    return [*overrides, *further], {flag.name: given[flag.name] for flag in flags if not flag.option}


def _value(flag: Flag, given: str) -> str:
    """As Hydra reads it: lists in brackets, and in quotes what its grammar would take for something else."""
    if flag.option == "DATASETS":
        return f"[{given}]"
    return given if re.fullmatch(r"[\w./+-]*", given) else "'" + given.replace("\\", "\\\\").replace("'", "\\'") + "'"


def grid_of(given: Mapping[str, str | None]) -> tuple[list[float], list[str]]:
    """The coefficients that GRID's flags ask for, from 0 to the largest, and what is wrong with the flags."""
    points, top = given["n-eval-points"] or "21", number(given["max-coefficient"] or "1.0")
    problems = []
    if not points.isdecimal() or int(points) < 2:
        problems.append(f"--n-eval-points counts coefficients from 0 to the largest, so it is at least 2; got {points}")
    if top is None or top <= 0:
        problems.append(f"--max-coefficient is a positive number; got {given['max-coefficient']}")
    if problems:
        return [], problems
    return [round(top * place / (int(points) - 1), 12) for place in range(int(points))], []


def number(text: str) -> float | None:
    """What a flag says, if it is a finite number."""
    try:
        return found if math.isfinite(found := float(text)) else None
    except ValueError:
        return None
