"""A model family from its configuration, with its heads, its fine-tuned weights, and what makes those."""

import contextlib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from src.checkpoints.peft import open_over
from src.checkpoints.published import MODES, Published, own_place
from src.checkpoints.reading import PICKLED, Checkpoint, open_all, open_both, open_checkpoint
from src.errors import UserError, raise_any
from src.evaluation.scorer import Report
from src.models.clip.heads import Heads
from src.models.clip.pixel_cache import PixelStore
from src.models.family import ModelFamily
from src.models.modes import NEVER, Mode
from src.runtime.distributed import Team, members_here
from src.state_dict import differences, digest

MOST_AT_ONCE = 8  # models scored in one pass: more gain nothing, and a killed run loses a span of all of them
LAST_LAYERS = ("visual.proj", "visual_projection.weight")


def build_family(config: DictConfig, device: torch.device, report: Report = lambda what, done: None) -> ModelFamily:
    """The model with its pre-trained weights, as the fine-tuning mode scores it; `report` is told what is decoded for it."""
    gigabytes = config.pixel_cache_gb * 10**9
    make = instantiate(config.model.family, _partial_=True)  # what Hydra is handed it turns into configuration
    family = make(
        name=config.model.name,
        device=device,
        heads=heads_of(config),
        pixels=PixelStore(Path(config.cache_dir).expanduser() / "pixels", int(gigabytes), workers_of(config), report),
        reference=_reference(config),
        precision=config.precision,
        compiled=config.compile,
    )
    return family.linearized() if mode_of(config).scored_linearized else family


def mode_of(config: DictConfig) -> Mode:
    return instantiate(config.finetuning_mode)


def workers_of(config: DictConfig) -> int:
    """Threads or processes that read images, for each process of a team."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return config.workers or max(cores // members_here(), 1)


def _reference(config: DictConfig) -> Checkpoint | None:
    """The pre-trained weights that the user names, or that lie beside the fine-tuned ones.

    Raises UserError if several lie there that differ, which their last layers tell without reading all of them.
    """
    if config.pretrained:
        return open_checkpoint(Path(config.pretrained).expanduser())
    published, files = published_of(config), config.finetuning_mode.files
    found = [open_checkpoint(path) for path in published.zeroshots(files)] or published_references(published, files)
    if not found and files != MODES[0]:
        found = [open_checkpoint(path) for path in published.zeroshots()]
    last = [digest((key, each[key]) for key in each if key.endswith(LAST_LAYERS)) for each in found] if len(found) > 1 else []
    other = next((each for each, known in zip(found, last) if known != last[0]), None)
    if other:
        raise UserError(f"{found[0].path} and {other.path} start from different weights; remove one, or give pretrained=PATH")
    return found[0] if found else None


def published_references(published: Published, files: str) -> list[Checkpoint]:
    """The models that linearized checkpoints without names are linear around, which they hold beside the fine-tuned ones."""
    pickled = [path for path in published.all_finetuned(files) if path.suffix in PICKLED]
    return [reference for path in pickled if (reference := open_both(path)[1]) is not None]


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


def masks_folder(config: DictConfig) -> Path:
    """Below which masks are kept: those of other fine-tuned models, or chosen by what the tangent model predicts, are others
    than the standard models', of which the published ones are."""
    mode = config.finetuning_mode
    usual = mode.linearized == NEVER and mode.files == MODES[0]
    return models_folder(config) if usual else models_folder(config) / mode.name


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


def checkpoint_path(config: DictConfig, task: str) -> Path:
    """Where a task's weights, fine-tuned in the mode of this run, are, ours or published ones, or where fine-tuning puts them."""
    return checkpoint_paths(config, [task])[task]


def checkpoint_paths(config: DictConfig, tasks: Iterable[str]) -> dict[str, Path]:
    """As `checkpoint_path`, for several tasks: those named in finetuned= lie there."""
    if config.finetuned is not None and not isinstance(config.finetuned, DictConfig):
        raise UserError("with this model, finetuned= names tasks: 'finetuned={MNIST: a.safetensors, Cars: b.pt}'")
    tasks, mode = list(tasks), config.finetuning_mode.files
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
    start = digest(family.pretrained.items())
    over = partial(open_over, pretrained=family.pretrained, made_with=start)
    opened, problems = open_all(checkpoint_paths(config, tasks), over), []
    for task, checkpoint in opened.items():
        try:
            entries = family.named(checkpoint)
            strange = differences("it", entries, "the pre-trained model", family.pretrained)
            if strange:
                problems.append(f"{checkpoint.path} is of another model than {family.name}: {strange[0]} ({len(strange)} in all)")
            if entries is not checkpoint:  # what the file lacks comes from the pre-trained model
                opened[task] = checkpoint.renamed(entries, start)
        except UserError as reason:
            problems += [f"{checkpoint.path}: {problem}" for problem in reason.problems]
    raise_any(problems)
    return opened
