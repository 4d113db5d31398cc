"""The objects that a configuration describes: a device, a method, a model family with its fine-tuned weights."""

import contextlib
import os
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig, OmegaConf

from command_line.config import NORMS, method_name
from command_line.instantiate import Kind, class_of, instantiate
from command_line.overrides import quoted
from command_line.paths import Paths, statistics_paths
from command_line.plugins import load_plugins
from src.checkpoints.opening import open_all, open_checkpoint, open_finetuned
from src.checkpoints.published import FILE_PREFIXES
from src.checkpoints.reading import Checkpoint, open_tangent_pair
from src.checkpoints.shards import PICKLED
from src.errors import UserError, plural, raise_any, shorten
from src.merging.lines import with_lines
from src.merging.method import Method
from src.merging.normalised import Normalised
from src.merging.quantised import Quantised
from src.merging.subspace import with_space
from src.merging.svc import SVC
from src.models.family import ModelFamily
from src.models.modes import LowRank, Mode
from src.runtime.distributed import ProcessGroup
from src.runtime.environment import available_cores, is_distributed, local_world_size
from src.runtime.progress import SILENT, Progress
from src.state_dict import differences, digest
from src.statistics.collection import StatisticsSettings
from src.training.recipe import Recipe

if TYPE_CHECKING:
    from src.data.task import Task
    from src.models.clip.heads import Heads
    from src.models.clip.pixel_cache import PixelStore

# Options of method= that are no fields of its class: read by the code here, or by other modules.
OPTIONS = (
    "apply_lines",
    "apply_svc",
    "svc_alpha",
    "step_order",
    "space",
    "depth_pattern",
    "examples",
    "use_ties",
    "own_base",
    "ties_base",
    "load_mask",
)
MOST_PER_PASS = 8  # models scored in one pass: more gain nothing, and a killed run loses a span of all of them
METHOD = Kind("method", "merging method", "src.merging", Method)
MODE = Kind("finetuning_mode", "fine-tuning mode", "src.models.modes", Mode, parts=(LowRank,))
RECIPE = Kind("model.recipe", "recipe", "src.training.recipe", Recipe)
FAMILY = Kind("model.family", "model family", "src.models", ModelFamily)
LAST_LAYERS = ("visual.proj", "visual_projection.weight")


def build_device(config: DictConfig) -> torch.device:
    """Return the device asked for, or this process's GPU where there is one, with its number: threads have none of their own.

    Raise UserError if there is no such device.
    """
    name = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name} is not a device torch knows; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}, but torch sees no GPU here; use device=cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}, but torch sees {plural(torch.cuda.device_count(), 'GPU')}, counted from 0")
    if device.type == "cuda" and is_distributed() and device.index is not None:
        raise UserError(f"device={name} puts all processes of a group on one GPU; leave the number out")
    if device.type == "cuda":
        return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    return device


def build_method(config: DictConfig) -> Method:
    """Return the merging method, over TIES, under SVC and LiNeS and quantised if asked, over the grid asked for."""
    fields = _fields(OmegaConf.to_container(config.method, resolve=True))
    if config.specify_lambda is not None and "grid" in fields:
        fields["grid"] = [config.specify_lambda]
    method = instantiate(fields, METHOD, load_plugins(config))
    for flag in ("apply_lines", "apply_svc", "use_ties"):
        if config.method.get(flag, False) not in (True, False):
            raise UserError(f"method.{flag} is true or false; got {config.method[flag]}")
    for step in _step_order(config):
        if config.method[f"apply_{step}"]:
            method = STEPS[step](method, config)
    if config.normalise == NORMS:
        method = Normalised(method)
    method = with_space(method, config.method.space)
    if config.bundle.bits is not None:
        method = Quantised(method, **config.bundle)
    is_respaced = config.n_eval_points is not None and config.specify_lambda is None
    return method.respaced(config.n_eval_points) if is_respaced else method


STEPS = {  # after a merge, each by its option apply_NAME
    "svc": lambda method, config: SVC(method, config.method.svc_alpha),
    "lines": lambda method, config: with_lines(method),
}


def _step_order(config: DictConfig) -> list[str]:
    """Return the names of STEPS in the order in which they are applied. Raise UserError unless each is there once."""
    order = OmegaConf.to_container(config.method)["step_order"]
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(STEPS):
        got = f"[{','.join(map(str, order))}]" if isinstance(order, list) else order
        raise UserError(f"method.step_order names {' and '.join(STEPS)} once each, as in [{','.join(STEPS)}]; got {got}")
    return order


def _fields(options: dict) -> dict:
    """Return the fields of a method's class, with the base exchanged where use_ties asks for it."""
    fields = {key: value for key, value in options.items() if key not in OPTIONS}
    if options.get("use_ties") is True:
        if fields["base"] != options["own_base"]:
            raise UserError(
                "method.use_ties=True masks TIES, and method@method.base= (or an option of method.base) what else to mask; "
                "give one of the two"
            )
        fields["base"] = options["ties_base"]
    return {key: _fields(value) if isinstance(value, dict) and "_target_" in value else value for key, value in fields.items()}


def specified_coefficient(config: DictConfig, method: Method, tasks: int) -> float | None:
    """Return the one coefficient to use, the user's or the method's own; None if it is to be searched."""
    if config.specify_lambda is not None:
        if method.makes_masks and config.method.get("load_mask", False):
            raise UserError("specify_lambda makes masks and method.load_mask loads them; give one of the two")
        method.check_coefficient(float(config.specify_lambda), tasks)
        return float(config.specify_lambda)
    coefficients = method.coefficients(tasks)
    return coefficients[0] if len(coefficients) == 1 else None


def build_mode(config: DictConfig) -> Mode:
    """Return the fine-tuning mode."""
    return instantiate(OmegaConf.to_container(config.finetuning_mode, resolve=True), MODE, load_plugins(config))


def build_recipe(config: DictConfig, task: str) -> Recipe:
    """Return the model's recipe, for as many epochs as the task asks for if the recipe says neither these nor steps."""
    epochs, steps = config.model.recipe.epochs, config.model.recipe.get("steps")
    if epochs is None and steps is None:
        epochs = config.tasks[task].get("epochs") if task in config.tasks else None
    if epochs is None and steps is None:
        raise UserError(f"nothing says how long to fine-tune on {task}: give tasks.{task}.epochs=N or model.recipe.epochs=N")
    recipe = OmegaConf.to_container(config.model.recipe, resolve=True)
    return instantiate({**recipe, "epochs": epochs}, RECIPE, load_plugins(config))


def check_modality(config: DictConfig, tasks: Iterable["Task"]) -> None:
    """Raise UserError, before anything is loaded, if the fine-tuning mode or tasks are not for what the model reads."""
    node = OmegaConf.to_container(config.model.family, resolve=True)
    reads = getattr(class_of(node, FAMILY, load_plugins(config)), "modality", None)  # which a family of a user's may not say
    mode, name = build_mode(config), config.model.name
    problems, others = [], [task for task in tasks if reads not in (None, task.modality)]
    if others:
        names = shorten([task.name for task in others])
        problems.append(f"{name} reads {reads}, and of {others[0].modality} are {names}; choose other tasks, or another model")
    if reads is not None and mode.modality not in (None, reads):
        problems.append(
            f"finetuning_mode={mode.name} is for {mode.modality}, and {name} reads {reads}; choose another, such as standard"
        )
    raise_any(problems)


def build_family(config: DictConfig, paths: Paths, device: torch.device, progress: Progress = SILENT) -> ModelFamily:
    """Return the model with its pre-trained weights, as the fine-tuning mode scores it.

    progress: listener, which hears what is being decoded.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean fp32: convolutions would round by default
    offers = {
        "name": lambda: config.model.name,
        "device": lambda: device,
        "precision": lambda: config.precision,
        "compiled": lambda: config.compile,
        "reference": lambda: _reference(config, paths),
        "heads": lambda: build_heads(config, paths),
        "pixels": lambda: _pixel_store(config, paths, progress),
        "folder": lambda: paths.model / "pretrained",
        "progress": lambda: progress,
    }
    family = instantiate(OmegaConf.to_container(config.model.family, resolve=True), FAMILY, load_plugins(config), offers)
    mode = build_mode(config)
    family = family.with_ia3() if mode.ia3 else family
    return family.linearized() if mode.scored_linearized else family


def _pixel_store(config: DictConfig, paths: Paths, progress: Progress) -> "PixelStore":
    from src.models.clip.pixel_cache import PixelStore  # with open_clip, which is slow to import

    return PixelStore(paths.cache / "pixels", int(config.pixel_cache_gb * 10**9), workers_of(config), progress)


def build_heads(config: DictConfig, paths: Paths) -> "Heads":
    """Return the source of the model's classification heads."""
    from src.models.clip.heads import Heads  # with open_clip, which is slow to import

    return Heads(paths.model / "heads", paths.published.head, config.heads.source, config.heads.parity)


def _reference(config: DictConfig, paths: Paths) -> Checkpoint | None:
    """Return the pre-trained weights that the user names, or that lie beside the fine-tuned ones; None for the model's own.

    Raise UserError if several lie there that differ, which their last layers tell without reading all of them.
    """
    if paths.pretrained:
        return open_checkpoint(paths.pretrained)
    published = paths.published
    references = [open_checkpoint(path) for path in published.zeroshots(paths.mode)] or _tangent_references(paths)
    if not references and paths.mode != FILE_PREFIXES[0]:
        references = [open_checkpoint(path) for path in published.zeroshots()]
    if len(references) > 1:
        last = [digest((key, each[key]) for key in each if key.endswith(LAST_LAYERS)) for each in references]
        other = next((each for each, value in zip(references, last) if value != last[0]), None)
        if other:
            one, two = references[0].path, other.path
            raise UserError(f"{one} and {two} start from different weights; remove one, or give pretrained=PATH")
    return references[0] if references else None


def _tangent_references(paths: Paths) -> list[Checkpoint]:
    """Return the models that linearized checkpoints without names are linear around, which they hold, too."""
    pickled = [path for path in paths.published.all_finetuned(paths.mode) if path.suffix in PICKLED]
    return [reference for path in pickled if (reference := open_tangent_pair(path)[1]) is not None]


def build_finetuned(paths: Paths, family: ModelFamily, tasks: Iterable[str]) -> dict[str, Checkpoint]:
    """Return the fine-tuned checkpoints by task, under the names that the family gives to weights.

    Raise UserError with the problems of all that cannot be opened, or are of another architecture.
    """
    checkpoints = open_all({task: paths.finetuned(task) for task in tasks}, partial(open_spelled, family=family))
    misfits = {task: differences("this file", checkpoint, "the pre-trained model", family.pretrained)
               for task, checkpoint in checkpoints.items()}  # fmt: skip
    raise_any(
        f"{checkpoints[task].path} is of another model than {family.name}: {problems[0]}; name another file with "
        f"{quoted('finetuned', {task: 'PATH'})}"
        for task, problems in misfits.items()
        if problems
    )
    return checkpoints


def open_spelled(path: Path, family: ModelFamily) -> Checkpoint:
    """Return a checkpoint under the names that the family gives to weights. Raise UserError if it cannot be opened."""
    return open_finetuned(path, family.pretrained, family.pretrained_digest, family.canonical)


def build_statistics_settings(config: DictConfig) -> StatisticsSettings:
    """Return what statistics are collected on."""
    options = OmegaConf.to_container(config.statistics, resolve=True)
    return StatisticsSettings(**{key: value for key, value in options.items() if key != "files"})


def check_statistics(config: DictConfig, method: Method, in_memory: Collection[str] = ()) -> None:
    """Raise UserError for files of statistics that are not there, or that the method does not read.

    in_memory: kinds of statistics that are given beside files.
    """
    files = statistics_paths(config)
    if (files or in_memory) and not method.needs:
        raise UserError(f"method={method_name(config)} needs no statistics; leave statistics= out")
    raise_any(f"there are no statistics at {file}; check the path (relative paths start at {Path.cwd()})"
              for file in files if not file.exists())  # fmt: skip


def workers_of(config: DictConfig) -> int:
    """Return the number of threads or processes that read examples, for each process of the group."""
    return config.workers or max(available_cores() // local_world_size(), 1)


def candidates_per_pass(config: DictConfig, device: torch.device, size: int, group: ProcessGroup) -> int:
    """Return how many merged models of `size` bytes are scored in one pass over the data.

    As many as a quarter of the free memory holds, the same in all processes of the group.
    """
    if config.candidates_per_pass is not None:
        return config.candidates_per_pass
    free = [_free_memory() // local_world_size()]
    if device.type == "cuda":
        free.append(torch.cuda.mem_get_info(device)[0])
    return min(group.all_gather(max(1, min(MOST_PER_PASS, min(free) // 4 // size))))


def _free_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this process could take: what the machine and its control groups have, page cache counted as free.

    root: where proc/ and sys/ are.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            name = line.split(":", 2)[2].strip("/")  # a Slurm job, say, lies some groups below the root, each with a limit
            groups = [Path(name), *Path(name).parents]
            free = min([free, *(_group_memory(root / "sys/fs/cgroup" / group) for group in groups)])
    return max(free, 0)


def _group_memory(group: Path) -> float:
    """Return the bytes that a control group (v2) has left; infinity without a limit."""
    try:
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int(statistics["anon"]) + int(statistics.get("shmem", 0))  # memory.current counts the page cache, too
        return int((group / "memory.max").read_text()) - used
    except (OSError, ValueError, KeyError):
        return float("inf")
