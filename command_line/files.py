"""What model=files reads, and what any run may write."""

from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from command_line.config import method_name
from src.checkpoints.reading import INDEX, PICKLED, SHARED, STARTING, TASKS
from src.checkpoints.writing import check_target, size_of
from src.errors import UserError, raise_any
from src.merging.method import Method
from src.state_dict import StateDict


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
