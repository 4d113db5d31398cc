"""What the entry scripts share: from a composed configuration to objects, and from exceptions to plain sentences."""

import functools
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from src.checkpoints import INDEX, PICKLED, SHARED, STARTING, TASKS, Checkpoint, open_all, open_checkpoint
from src.data.catalogue import find_tasks, require_data
from src.data.task import Task
from src.errors import UserError, raise_any
from src.evaluate import Report
from src.files import write_json
from src.merging.method import Method, is_number
from src.models.family import PRECISIONS, ModelFamily
from src.models.heads import Heads
from src.pixels import PixelStore
from src.published import Published, own_place
from src.results import Result
from src.saving import check_target, size_of
from src.search import STRATEGIES
from src.state_dict import StateDict
from src.team import Team, is_leader, is_member, launch
from src.train import Recipe, finetune, is_made_here, mismatch

ROOT = Path(__file__).parent
OmegaConf.register_new_resolver("repository", lambda path: str(ROOT / path), replace=True)

OmegaConf.register_new_resolver("tenths", lambda top: [n / 10 for n in range(1, round(10 * top) + 1)], replace=True)

NOT_OF_A_JOB = ("hydra.mode", "hydra/launcher", "hydra.launcher", "hydra.sweep")

SUGAR = (
    "apply_lines",
    "depth_pattern",
    "use_ties",
    "own_base",
    "ties_base",
    "load_mask",
)  # of method=, and no field of its class

MOST_AT_ONCE = 8  # models scored in one pass: more gain nothing, and a killed run loses their pass

# Jobs that a launcher starts elsewhere import this program from wherever they run.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def speaks_plainly(script: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Print what the user can mend as sentences and no traceback; in a sweep, go on with the next job."""

    @functools.wraps(script)
    def run(config: DictConfig) -> None:
        try:
            script(config)
        except Exception as reason:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            sentences = plain(reason)
            if sentences is None:
                raise
            if not is_leader():
                time.sleep(5)  # the first process has the same error, and ends the others when it has said so
            for sentence in sentences:
                print(f"error: {sentence}", file=sys.stderr)
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                sys.exit(1)
            job = HydraConfig.get()
            path = _failures(job.sweep.dir) / f"{job.job.num}.json"
            write_json(path, {"process": os.getpid(), "sentences": sentences})

    return run


def plain(reason: BaseException | None) -> list[str] | None:
    """The sentences of an exception that is the user's to mend; None for a bug of ours."""
    while isinstance(reason, InstantiationException):
        if isinstance(reason.__cause__, TypeError):
            return [str(reason.__cause__)]
        reason = reason.__cause__
    if isinstance(reason, UserError):
        return reason.problems
    if isinstance(reason, OSError | HydraException | OmegaConfBaseException):
        return [str(reason)]
    if isinstance(reason, MemoryError):
        return ["this machine ran out of memory; merge fewer or smaller models at a time, or lower batch_size"]
    if isinstance(reason, torch.OutOfMemoryError):
        return [f"the device ran out of memory; lower batch_size or use device=cpu ({str(reason).splitlines()[0]})"]
    return None


def run_plainly(script: Callable[[], None]) -> int:
    """Run a script that has no Hydra of its own; its exit status."""
    try:
        script()
    except Exception as reason:
        sentences = None if os.environ.get("HYDRA_FULL_ERROR") == "1" else plain(reason)
        if sentences is None:
            raise
        for sentence in sentences:
            print(f"error: {sentence}", file=sys.stderr)
        return 1
    return 0


def composed(overrides: list[str]) -> DictConfig:
    """The configuration that main.py would run with under these overrides."""
    with initialize_config_dir(str(ROOT / "config"), version_base=None):
        return compose("config", overrides)


class AfterSweep(Callback):
    """Says at the end of a sweep how many of its jobs failed, and what those said that ran in other processes."""

    failed = 0

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = _failures(config.hydra.sweep.dir)
        jobs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        for job in jobs:
            if job["process"] != os.getpid():
                print(*(f"error: {sentence}" for sentence in job["sentences"]), sep="\n", file=sys.stderr)
        if jobs:
            AfterSweep.failed = sum(len(job["sentences"]) for job in jobs)
            problems = "1 problem" if AfterSweep.failed == 1 else f"{AfterSweep.failed} problems"
            print(f"error: {problems} in this sweep, named above", file=sys.stderr)


def exit_status() -> int:
    """What a script ends with: 1 if jobs of its sweep failed."""
    return int(AfterSweep.failed > 0)


def _failures(sweep: str) -> Path:
    """Where the jobs of a sweep, which may run on other machines, leave what went wrong in them."""
    return Path(sweep) / "failures"


def device_of(config: DictConfig) -> torch.device:
    """The device asked for, or cuda where there is one."""
    name = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as reason:
        raise UserError(f"device={name} is not a device torch knows; use cpu, cuda or cuda:N") from reason
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}, but torch sees no GPU here; use device=cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name} is not supported; use cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}, but torch sees {torch.cuda.device_count()} GPUs, counted from 0")
    return device


def build_method(config: DictConfig) -> Method:
    """The merging method, over TIES and under LiNeS if asked, over the grid asked for."""
    fields = _without_sugar(OmegaConf.to_container(config.method, resolve=True))
    if config.specify_lambda is not None and "grid" in fields:
        fields["grid"] = [config.specify_lambda]
    method = instantiate(fields, _convert_="all")
    for flag in ("apply_lines", "use_ties"):
        if config.method.get(flag, False) not in (True, False):
            raise UserError(f"method.{flag} is true or false; got {config.method[flag]}")
    if config.method.apply_lines:
        method = method.by_depth()
    respaced = config.n_eval_points is not None and config.specify_lambda is None
    return method.respaced(config.n_eval_points) if respaced else method


def _without_sugar(fields: dict) -> dict:
    """The fields of a method's class: without what other code reads, the base exchanged where use_ties asks for it."""
    kept = {key: value for key, value in fields.items() if key not in SUGAR}
    if fields.get("use_ties") is True:
        if kept["base"] != fields["own_base"]:
            raise UserError("method.use_ties=True masks TIES, and method.base says what else to mask; give one of the two")
        kept["base"] = fields["ties_base"]
    return {key: _without_sugar(value) if isinstance(value, dict) and "_target_" in value else value
            for key, value in kept.items()}  # fmt: skip


def check_choices(config: DictConfig) -> None:
    """Raise UserError for options outside their choices, all at once, before anything is loaded."""
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    problems = []
    if config.output_kind not in ("model", "task_vector", "bundle"):
        problems.append(f"output_kind is model, task_vector or bundle; got {config.output_kind}")
    if config.output_kind == "bundle" and not config.output:
        problems.append("output_kind=bundle needs a folder to write, such as output=bundle/")
    load = config.method.get("load_mask", False)
    if not isinstance(load, bool | str | None):
        problems.append(f"method.load_mask is true, false, null or a path; got {load}")
    elif load and config.method.get("mask_lambda") is not None:
        problems.append("method.mask_lambda makes masks and method.load_mask loads them; give one of the two")
    if config.specify_lambda is not None and not is_number(config.specify_lambda):
        problems.append(f"specify_lambda is a number; got {config.specify_lambda}")
    for key in ("batch_size", "candidates_per_pass", "workers", "world_size"):
        if config[key] is not None and (type(config[key]) is not int or config[key] < 1):
            problems.append(f"{key} is a positive whole number; got {config[key]}")
    for key, choices in (("precision", PRECISIONS), ("search", STRATEGIES)):
        if config[key] not in choices:
            problems.append(f"{key} is {' or '.join(choices)}; got {config[key]}")
    for key in ("compile", "download"):
        if config[key] not in (True, False):
            problems.append(f"{key} is true or false; got {config[key]}")
    if not is_number(config.pixel_cache_gb) or config.pixel_cache_gb < 0:
        problems.append(f"pixel_cache_gb is a number of gigabytes, 0 to keep nothing; got {config.pixel_cache_gb}")
    if config.n_eval_points is not None and type(config.n_eval_points) is not int:
        problems.append(f"n_eval_points is a whole number; got {config.n_eval_points}")
    if config.analysis not in (True, False):
        problems.append(f"analysis is true or false; got {config.analysis}")
    if config.wandb.mode not in ("disabled", "online", "offline"):
        problems.append(f"wandb.mode is disabled, online or offline; got {config.wandb.mode}")
    elif config.wandb.mode != "disabled" and importlib.util.find_spec("wandb") is None:
        problems.append(f"wandb.mode={config.wandb.mode}, but wandb is not installed; pip install wandb")
    raise_any(problems)


def share_out(config: DictConfig) -> bool:
    """Start world_size=N processes that do this run together, if it is not one of them; whether that was done."""
    if (config.world_size or 1) == 1 or is_member():
        return False
    hydra = HydraConfig.get()
    overrides = [text for text in (*hydra.overrides.task, *hydra.overrides.hydra) if not text.startswith(NOT_OF_A_JOB)]
    status = launch([sys.executable, str(ROOT / "main.py"), *overrides], config.world_size)
    if status:
        raise UserError(f"a process of world_size={config.world_size} ended with status {status}; its error is above")
    return True


def build_family(config: DictConfig, device: torch.device, report: Report = lambda what, done: None) -> ModelFamily:
    """The model with its pre-trained weights; `report` is told what is decoded for it."""
    gigabytes = config.pixel_cache_gb * 10**9
    workers = config.workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    reference = config.pretrained or published_of(config).zeroshot()
    make = instantiate(config.model.family, _partial_=True)  # what Hydra is handed it turns into configuration
    return make(
        name=config.model.name,
        device=device,
        heads=heads_of(config),
        pixels=PixelStore(Path(config.cache_dir).expanduser() / "pixels", int(gigabytes), workers, report),
        reference=open_checkpoint(reference) if reference else None,
        precision=config.precision,
        compiled=config.compile,
    )


def heads_of(config: DictConfig) -> Heads:
    return Heads(models_folder(config) / "heads", published_of(config).head, config.heads.source, config.heads.parity)


def published_of(config: DictConfig) -> Published:
    return Published(Path(config.model_location).expanduser(), config.model.name)


def batch_size_of(config: DictConfig, device: torch.device) -> int:
    """Of evaluation; unless asked for, large enough to keep a device busy and no larger."""
    return config.batch_size or (512 if device.type == "cuda" else 64)


def at_once(config: DictConfig, device: torch.device, size: int) -> int:
    """How many merged models of `size` bytes are scored in one pass over the data: a quarter of the memory's worth."""
    if config.candidates_per_pass is not None:
        return config.candidates_per_pass
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    if device.type == "cuda":
        free.append(torch.cuda.mem_get_info(device)[0])
    return max(1, min(MOST_AT_ONCE, min(free) // 4 // size))


def models_folder(config: DictConfig) -> Path:
    return Path(config.model_location).expanduser() / config.model.name


def selected_tasks(config: DictConfig) -> list[Task]:
    """The tasks of DATASETS, or the first num_tasks of the list in tasks=."""
    asked = config.DATASETS if config.DATASETS is not None else config.tasks.names
    names = [asked] if isinstance(asked, str) else list(asked)
    if not names:
        raise UserError("DATASETS names no task; leave it out for all of them")
    if config.num_tasks is not None:
        if type(config.num_tasks) is not int or not 1 <= config.num_tasks <= len(names):
            raise UserError(f"num_tasks={config.num_tasks}, but there are {len(names)} tasks: {', '.join(names)}")
        names = names[: config.num_tasks]
    options = {name: node for name, node in OmegaConf.to_container(config.tasks, resolve=True).items() if isinstance(node, dict)}
    return find_tasks(names, Path(config.data_location).expanduser(), options)


def checkpoint_path(config: DictConfig, task: str, mode: str = "nonlinear") -> Path:
    """Where a task's fine-tuned weights are, ours or published ones, or where fine-tuning puts them."""
    return checkpoint_paths(config, [task], mode)[task]


def checkpoint_paths(config: DictConfig, tasks: Iterable[str], mode: str = "nonlinear") -> dict[str, Path]:
    """As `checkpoint_path`, for several tasks: those named in finetuned= lie there."""
    if config.finetuned is not None and not isinstance(config.finetuned, DictConfig):
        raise UserError("with this model, finetuned= names tasks: 'finetuned={MNIST: a.safetensors, Cars: b.pt}'")
    models, given, published = Path(config.model_location).expanduser(), config.finetuned or {}, published_of(config)
    return {
        task: Path(str(given[task])).expanduser()
        if task in given
        else published.finetuned(task, mode) or own_place(models, config.model.name, task, mode)
        for task in tasks
    }


def check_inputs(config: DictConfig, tasks: list[Task]) -> None:
    """Raise UserError naming every dataset, head and checkpoint that is missing and that this run cannot fetch or make."""
    problems, folder = missing_data(config, tasks), models_folder(config)
    get = f"python download_checkpoints.py --model={config.model.name} --kind=checkpoints"
    paths = checkpoint_paths(config, (task.name for task in tasks))
    lacking = [task for task, path in paths.items() if not path.exists()]
    if lacking and not config.model.finetune_missing:
        problems.append(
            f"no fine-tuned weights for {', '.join(lacking)} in {folder} (<Task>Val/nonlinear_finetuned.pt or .safetensors); "
            f"run {get}, or python finetune.py --model={config.model.name} --train-dataset={','.join(lacking)}, "
            "or name yours with 'finetuned={TASK: PATH}'"
        )
    heads = heads_of(config)
    headless = [task.name for task in tasks if heads.source == "published" and heads.from_file(task.name) is None]
    if headless:
        named = ", ".join(headless)
        problems.append(f"no published heads for {named} in {folder} (head_<Task>Val.pt); run {get}, or leave out heads.source")
    raise_any(problems)


def missing_data(config: DictConfig, tasks: list[Task]) -> list[str]:
    """A sentence for each dataset that is missing and will not be downloaded."""
    return [problem for task in tasks if not (config.download and task.fetchable) for problem in task.problems()]


def fetch_data(config: DictConfig, tasks: list[Task], team: Team) -> None:
    """Download the datasets that are missing."""
    if team.leads:
        require_data(tasks, config.download)
    team.wait()


def require_checkpoints(config: DictConfig, family: ModelFamily, tasks: list[Task], team: Team) -> None:
    """Fine-tune what is missing, where the model's configuration allows it. UserError for weights of another origin."""
    if team.leads:
        finetune_all(config, family, unfinished(config, family, tasks))
    team.wait()


def open_finetuned(config: DictConfig, family: ModelFamily, tasks: Iterable[str]) -> dict[str, Checkpoint]:
    """The fine-tuned checkpoints by task, under the names that the family gives to weights.

    Raises UserError with the problems of all that cannot be opened, or are of another architecture.
    """
    opened, problems = open_all(checkpoint_paths(config, tasks)), []
    for task, checkpoint in opened.items():
        try:
            entries = family.named(checkpoint)
            opened[task] = checkpoint if entries is checkpoint else checkpoint.renamed(entries)
        except UserError as reason:
            problems += [f"{checkpoint.path}: {problem}" for problem in reason.problems]
    raise_any(problems)
    return opened


def unfinished(config: DictConfig, family: ModelFamily, tasks: list[Task]) -> list[Task]:
    """The tasks without weights. UserError for all whose weights were made another way than would be done now."""
    paths = {task.name: checkpoint_path(config, task.name) for task in tasks}
    there = [name for name, path in paths.items() if path.exists()]
    raise_any(
        filter(None, (mismatch(paths[name], family, recipe_of(config, name)) for name in there if is_made_here(paths[name])))
    )
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


def method_name(config: DictConfig) -> str:
    """As the user chose it, for titles: `ties`, `ties + LiNeS`."""
    return HydraConfig.get().runtime.choices.method + (" + LiNeS" if config.method.apply_lines else "")


def question(config: DictConfig, tasks: list[Task]) -> dict:
    """The options that decide a run's numbers: those that do not (places, batch size) are left out."""
    options = {key: config[key] for key in ("specify_lambda", "n_eval_points", "search", "precision")}
    method = OmegaConf.to_container(config.method, resolve=True)
    return {"model": config.model.name, "tasks": [task.name for task in tasks], "method": method, **options}


def specified_coefficient(config: DictConfig, method: Method, tasks: int) -> float | None:
    """The one coefficient to use: the user's, or the method's own fixed one; None if it is to be searched."""
    if config.specify_lambda is not None:
        if method.makes_masks and config.method.get("load_mask", False):
            raise UserError("specify_lambda makes masks and method.load_mask loads them; give one of the two")
        method.check_coefficient(float(config.specify_lambda), tasks)
        return float(config.specify_lambda)
    own = method.coefficients(tasks)
    return own[0] if len(own) == 1 else None


def file_sources(config: DictConfig) -> tuple[Path, dict[str, Path]]:
    """The pre-trained checkpoint of model=files, and the fine-tuned ones by task name.

    Raises UserError for all that is missing or ambiguous at once.
    """
    examples = {"pretrained": "A.safetensors", "finetuned": "[B.pt,C.safetensors]", "output": "merged.safetensors"}
    problems = [f"model=files needs {key}, such as {key}={example}" for key, example in examples.items() if not config[key]]
    given = config.finetuned
    if isinstance(given, DictConfig):
        sources = {str(task): Path(str(path)).expanduser() for task, path in given.items()}
    else:
        listed = list(given) if isinstance(given, ListConfig) else [given] if given else []
        paths = [Path(str(path)).expanduser() for path in listed]
        names = [path.name if path.is_dir() else _stem(path.name) for path in paths]
        twice = {name: [str(path) for path, other in zip(paths, names) if other == name] for name in names}
        problems += [
            f"{' and '.join(same)} would both be task {name}; name them: 'finetuned={{one: {same[0]}, two: {same[1]}}}'"
            for name, same in twice.items()
            if len(same) > 1
        ]
        sources = dict(zip(names, paths))
    problems += [
        f"a task cannot be called {task!r}, because its files are called as it is; name it as in 'finetuned={{cars: {path}}}'"
        for task, path in sources.items()
        if not task or task.startswith(".") or set(task) & {"/", "\\"} or f"{task}.safetensors" in (STARTING, SHARED, TASKS)
    ]
    raise_any(problems)
    return Path(str(config.pretrained)).expanduser(), sources


def _stem(name: str) -> str:
    """A file's name without the endings that only say how weights are stored."""
    for ending in (INDEX, ".safetensors", *PICKLED):
        name = name.removesuffix(ending)
    return name


def check_output(config: DictConfig, method: Method, inputs: Iterable[Path], pretrained: StateDict, tasks: int) -> None:
    """Raise UserError, before any work, if what `output` asks for cannot be written or would destroy an input."""
    if config.output_kind == "bundle" and not method.per_task:
        raise UserError(
            f"method={method_name(config)} makes one model: there is nothing to bundle; use output_kind=model or task_vector"
        )
    if config.output:
        path = Path(config.output).expanduser()
        load = config.method.get("load_mask")
        inputs = [*inputs, *([Path(load).expanduser()] if isinstance(load, str) else [])]
        if method.per_task and path.suffix == ".safetensors":
            raise UserError(f"output={path}: this method makes a model for each task, which a folder holds; name a folder")
        copies = 2 if config.output_kind == "bundle" else tasks if method.per_task else 1
        check_target(path, method.per_task or path.suffix != ".safetensors", inputs, copies * size_of(pretrained))


def report_online(config: DictConfig, result: Result) -> None:
    """Report a result to Weights & Biases if wandb.mode asks for it."""
    if config.wandb.mode == "disabled":
        return
    import wandb

    run = wandb.init(project="merging", name=result.name, mode=config.wandb.mode, config=result.config)
    for point in result.curve:
        run.log({"coefficient": point.coefficient, "objective": point.objective})
    run.summary.update({kind: figures["mean"] for kind, figures in result.means().items()})
    run.finish()


@dataclass
class Progress:
    """A bar on stderr that says what is being done and how long is left; sparse lines where stderr is no terminal."""

    prefix: str = ""
    unit: str = "image"
    total: int = 0
    silent: bool = False

    def __enter__(self) -> "Progress":
        pause = {"mininterval": 0.2} if sys.stderr.isatty() else {"mininterval": 30, "delay": 30}
        scale = {"unit": self.unit, "unit_scale": self.unit == "B"}
        self._bar: Any = tqdm(total=self.total, leave=False, disable=self.silent, dynamic_ncols=True, **scale, **pause)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def plan(self, more: int) -> None:
        """`more` units of work are known to come."""
        self._bar.total = (self._bar.total or 0) + more

    def report(self, what: str, done: int) -> None:
        """`done` more units of `what` are finished."""
        self._bar.set_description_str(self.prefix + what, refresh=not done and sys.stderr.isatty())
        self._bar.update(done)
