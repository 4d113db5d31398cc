"""A model family from its configuration, with its heads, its fine-tuned weights, and what makes those."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from command_line.speech import Progress
from src.checkpoints import Checkpoint, open_all, open_checkpoint
from src.data.task import Task
from src.errors import UserError, raise_any
from src.evaluate import Report
from src.models.family import ModelFamily
from src.models.heads import Heads
from src.pixels import PixelStore
from src.published import Published, own_place
from src.state_dict import differences, digest
from src.team import Team, members_here
from src.train import Recipe, finetune, is_made_here, mismatch

MOST_AT_ONCE = 8  # models scored in one pass: more gain nothing, and a killed run loses a span of all of them
LAST_LAYERS = ("visual.proj", "visual_projection.weight")


def build_family(config: DictConfig, device: torch.device, report: Report = lambda what, done: None) -> ModelFamily:
    """The model with its pre-trained weights; `report` is told what is decoded for it."""
    gigabytes = config.pixel_cache_gb * 10**9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = config.workers or max(cores // members_here(), 1)
    make = instantiate(config.model.family, _partial_=True)  # what Hydra is handed it turns into configuration
    return make(
        name=config.model.name,
        device=device,
        heads=heads_of(config),
        pixels=PixelStore(Path(config.cache_dir).expanduser() / "pixels", int(gigabytes), workers, report),
        reference=_reference(config),
        precision=config.precision,
        compiled=config.compile,
    )


def _reference(config: DictConfig) -> Checkpoint | None:
    """The pre-trained weights that the user names, or that lie beside the fine-tuned ones.

    Raises UserError if several lie there that differ, which their last layers tell without reading all of them.
    """
    if config.pretrained:
        return open_checkpoint(Path(config.pretrained).expanduser())
    found = [open_checkpoint(path) for path in published_of(config).zeroshots()]
    last = [digest((key, each[key]) for key in each if key.endswith(LAST_LAYERS)) for each in found] if len(found) > 1 else []
    other = next((each for each, known in zip(found, last) if known != last[0]), None)
    if other:
        raise UserError(f"{found[0].path} and {other.path} start from different weights; remove one, or give pretrained=PATH")
    return found[0] if found else None


def heads_of(config: DictConfig) -> Heads:
    return Heads(models_folder(config) / "heads", published_of(config).head, config.heads.source, config.heads.parity)


def heads_from(config: DictConfig, tasks: Iterable[str]) -> dict[str, str]:
    """Whether each task's head is `published` or built from `prompts`."""
    heads = heads_of(config)
    return {task: "published" if heads.from_file(task) else "prompts" for task in tasks}


def told_of_heads(config: DictConfig, tasks: Iterable[str]) -> list[str]:
    """A note where some heads are published ones, whose prompts are not known."""
    origins = heads_from(config, tasks)
    published, built = ([task for task, origin in origins.items() if origin == kind] for kind in ("published", "prompts"))
    mixed = f"; built from prompts for {', '.join(built)}" if built else ""
    return [f"heads: published for {', '.join(published)}{mixed}"] if published else []


def published_of(config: DictConfig) -> Published:
    return Published(Path(config.model_location).expanduser(), config.model.name)


def models_folder(config: DictConfig) -> Path:
    return Path(config.model_location).expanduser() / config.model.name


def batch_size_of(config: DictConfig, device: torch.device) -> int:
    """Of evaluation; unless asked for, large enough to keep a device busy and no larger."""
    return config.batch_size or (512 if device.type == "cuda" else 64)


def at_once(config: DictConfig, device: torch.device, size: int, team: Team) -> int:
    """How many merged models of `size` bytes are scored in one pass over the data, the same in all processes of a team:
    as many as a quarter of the memory holds that is free."""
    if config.candidates_per_pass is not None:
        return config.candidates_per_pass
    free = [_free_memory() // members_here()]
    if device.type == "cuda":
        free.append(torch.cuda.mem_get_info(device)[0])
    return min(team.gathered(max(1, min(MOST_AT_ONCE, min(free) // 4 // size))))


def _free_memory() -> int:
    """Bytes that this process could take: what the machine has, mapped files counted as free, within its control group."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return free


def checkpoint_path(config: DictConfig, task: str, mode: str = "nonlinear") -> Path:
    """Where a task's fine-tuned weights are, ours or published ones, or where fine-tuning puts them."""
    return checkpoint_paths(config, [task], mode)[task]


def checkpoint_paths(config: DictConfig, tasks: Iterable[str], mode: str = "nonlinear") -> dict[str, Path]:
    """As `checkpoint_path`, for several tasks: those named in finetuned= lie there."""
    if config.finetuned is not None and not isinstance(config.finetuned, DictConfig):
        raise UserError("with this model, finetuned= names tasks: 'finetuned={MNIST: a.safetensors, Cars: b.pt}'")
    tasks = list(tasks)
    models, given, published = Path(config.model_location).expanduser(), config.finetuned or {}, published_of(config)
    return {
        task: Path(str(given[task])).expanduser()
        if task in given
        else published.finetuned(task, mode) or own_place(models, config.model.name, task, mode)
        for task in tasks
    }


def open_finetuned(config: DictConfig, family: ModelFamily, tasks: Iterable[str]) -> dict[str, Checkpoint]:
    """The fine-tuned checkpoints by task, under the names that the family gives to weights.

    Raises UserError with the problems of all that cannot be opened, or are of another architecture.
    """
    opened, problems = open_all(checkpoint_paths(config, tasks)), []
    for task, checkpoint in opened.items():
        try:
            entries = family.named(checkpoint)
            strange = differences("it", entries, "the pre-trained model", family.pretrained)
            if strange:
                problems.append(f"{checkpoint.path} is of another model than {family.name}: {strange[0]} ({len(strange)} in all)")
            if entries is not checkpoint:  # what the file lacks comes from the pre-trained model
                opened[task] = checkpoint.renamed(entries, digest(family.pretrained.items()))
        except UserError as reason:
            problems += [f"{checkpoint.path}: {problem}" for problem in reason.problems]
    raise_any(problems)
    return opened


def require_checkpoints(config: DictConfig, family: ModelFamily, tasks: list[Task], team: Team) -> None:
    """Fine-tune what is missing, where the model's configuration allows it. UserError for weights of another origin."""
    if team.leads:
        finetune_all(config, family, unfinished(config, family, tasks))
    team.wait()


def unfinished(config: DictConfig, family: ModelFamily, tasks: list[Task]) -> list[Task]:
    """The tasks without weights. UserError for all whose weights were made another way than would be done now."""
    paths = checkpoint_paths(config, (task.name for task in tasks))
    ours = [task for task in tasks if paths[task.name].exists() and is_made_here(paths[task.name])]
    raise_any(filter(None, (mismatch(paths[task.name], family, recipe_of(config, task.name), task) for task in ours)))
    return [task for task in tasks if not paths[task.name].exists()]


def recipe_of(config: DictConfig, task: str) -> Recipe:
    """How the model is fine-tuned on a task: the model's recipe, for as many epochs as the task wants if it has none."""
    epochs = config.model.recipe.epochs
    if epochs is None:
        epochs = config.tasks[task].get("epochs") if task in config.tasks else None
    if epochs is None:
        raise UserError(f"nothing says how long to fine-tune on {task}: give tasks.{task}.epochs=N or model.recipe.epochs=N")
    return instantiate(config.model.recipe, epochs=epochs)


def finetune_all(config: DictConfig, family: ModelFamily, tasks: list[Task]) -> None:
    """Fine-tune each task and write its weights where they are looked for."""
    recipes = {task.name: recipe_of(config, task.name) for task in tasks}
    for number, task in enumerate(tasks, start=1):
        path = checkpoint_path(config, task.name)
        with Progress(f"{number} of {len(tasks)}: ", "step") as progress:
            finetune(family, task, recipes[task.name], path, progress.plan, progress.report)
        print(f"fine-tuned {config.model.name} on {task.name}: {path}", flush=True)
