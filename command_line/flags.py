"""Flags as the papers' scripts have them, turned into the overrides that the configuration takes."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from command_line.overrides import plain_or_quoted, quoted_text
from src.errors import nearest, raise_any
from src.models.modes import TRAINS
from src.training.recipe import Recipe

RECIPE = [field.name for field in fields(Recipe)]


@dataclass(frozen=True)
class Flag:
    """`--name=value` for `option=value`; where there is no option, the script reads the value itself.

    is_switch: whether it stands alone, `--name`, and means true.
    """

    name: str
    option: str | None
    help: str
    default: str | None = None
    is_switch: bool = False


DATA_LOCATION = Flag("data-location", "data_location", "of datasets")
CONFIG_DIR = Flag("config-dir", "hydra.searchpath", "a folder of yours with files like those of config/")
MODEL = (
    Flag("model", "model", "a name from config/model", "ViT-demo"),
    Flag(
        "finetuning-mode",
        "finetuning_mode",
        "standard, linear, linear-2, lora, posthoc or ia3; default: standard",
    ),
    Flag("world-size", "world_size", "processes that share the work on this machine, one a GPU"),
    DATA_LOCATION,
    Flag("save", "model_location", "of pre-trained and fine-tuned weights"),
    Flag("cache-dir", "cache_dir", "of what need not be computed again"),
    CONFIG_DIR,
)
TASKS = "task names with commas between them; default: the model's list"
GRID = (
    Flag("n-eval-points", None, "coefficients to try, from 0 on; default: 21"),
    Flag("max-coefficient", None, "the largest of them; default: 1.0"),
)
BENCHMARK = (*MODEL, Flag("eval-datasets", "DATASETS", TASKS), Flag("batch-size", "batch_size", "examples scored together"))
TRAINING = (
    *MODEL,
    Flag("train-dataset", "DATASETS", TASKS),
    Flag("mixture", None, "fine-tune one model on all of them together", is_switch=True),
    Flag("epochs", "model.recipe.epochs", "passes over the training data"),
    Flag("lr", "model.recipe.lr", "the highest learning rate"),
    Flag("wd", "model.recipe.weight_decay", "AdamW's weight decay"),
    Flag("warmup-length", "model.recipe.warmup_steps", "optimiser steps of warm-up"),
    Flag("batch-size", "model.recipe.batch_size", "examples that go through the model together, in all processes"),
    Flag("num-grad-accumulation", "model.recipe.num_grad_accumulation", "how many of these batches an optimiser step sees"),
    Flag("seed", "model.recipe.seed", "of the order and augmentation of examples"),
    Flag("trains", "finetuning_mode.trains", f"what trains: {', '.join(TRAINS)}"),
)


def parse_flags(about: str, flags: Sequence[Flag], recipe: Sequence[str] = ()) -> tuple[list[str], dict[str, str | None]]:
    """Return the overrides that the command line stands for, and the values of flags without an option, by flag.

    Overrides that are given as such come last, and take the place of flags.

    about: the script's documentation.
    recipe: names that stand for `model.recipe.NAME` in overrides.

    Raise UserError for flags that there are not.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in flags:
        form = {"action": "store_const", "const": "true"} if flag.is_switch else {"metavar": "VALUE"}
        parser.add_argument(f"--{flag.name}", dest=flag.name, default=flag.default, help=flag.help, **form)
    parser.add_argument("overrides", nargs="*", help="key=value, any option of main.py (python main.py --help)")
    parser.error = lambda message: raise_any([f"{message}; --help lists the flags"])
    namespace, unknown = parser.parse_known_intermixed_args()
    raise_any(_unknown_flag(text, [f"--{flag.name}" for flag in flags]) for text in unknown)
    values = vars(namespace)
    overrides = [f"model.recipe.{text}" if text.split("=")[0] in recipe else text for text in values["overrides"]]
    overridden = {text.split("=")[0].lstrip("+~") for text in overrides}
    by_flag = [f"{flag.option}={_written(flag, values[flag.name])}" for flag in flags
               if flag.option and values[flag.name] is not None and flag.option not in overridden]  # fmt: skip
    return [*by_flag, *overrides], {flag.name: values[flag.name] for flag in flags if not flag.option}


def _unknown_flag(text: str, names: Sequence[str]) -> str:
    """Return a sentence on an argument that is no flag, with the nearest of `names`."""
    name = text.split("=")[0]
    near = nearest(name, names)
    return f"there is no flag {name}; {f'did you mean {near}?' if near else '--help lists the flags'}"


def _written(flag: Flag, value: str) -> str:
    """Return a value as Hydra reads it: lists in brackets, in quotes what its grammar would take for something else."""
    if flag.option == "DATASETS":
        return f"[{','.join(map(plain_or_quoted, value.split(',')))}]"
    if flag.option == "hydra.searchpath":
        return f"[{quoted_text(f'file://{os.path.abspath(value)}')}]"
    return plain_or_quoted(value)


def grid_of(values: Mapping[str, str | None]) -> tuple[list[float], list[str]]:
    """Return the coefficients that GRID's flags ask for, from 0 to the largest, and what is wrong with the flags."""
    points, top = values["n-eval-points"] or "21", number(values["max-coefficient"] or "1.0")
    problems = []
    if not points.isdecimal() or int(points) < 2:
        problems.append(f"--n-eval-points counts coefficients from 0 to the largest, so it is at least 2; got {points}")
    if top is None or top <= 0:
        problems.append(f"--max-coefficient is a positive number; got {values['max-coefficient']}")
    if problems:
        return [], problems
    return [round(top * index / (int(points) - 1), 12) for index in range(int(points))], []


def number(text: str) -> float | None:
    """Return the finite number that a flag's text is; None if it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
