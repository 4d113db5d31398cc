"""The folders and files of a run, from its configuration."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from command_line.overrides import quoted
from src.checkpoints.bundles import BUNDLE_FILES
from src.checkpoints.mask_files import FOLDER, MaskFiles
from src.checkpoints.published import FILE_PREFIXES, PublishedFiles, finetuned_path
from src.checkpoints.shards import INDEX, PICKLED
from src.errors import UserError, collect, raise_any
from src.runtime.files import expand_path
from src.state_dict import StateDict


@dataclass(frozen=True)
class Paths:
    """The folders and files of a run on one model.

    data, models, cache, results: data_location, model_location, cache_dir, results_dir.
    name: the model's.
    mode: prefix of the files with weights of this run's fine-tuning mode.
    masks: the folder of masks made here.
    is_standard: whether models are fine-tuned and predict as published ones do, whose masks may then fit.
    user_finetuned: the user's fine-tuned weights, by task.
    pretrained: the user's pre-trained weights; None for the model's own.
    """

    data: Path
    models: Path
    cache: Path
    results: Path
    name: str
    mode: str
    masks: Path
    is_standard: bool
    user_finetuned: Mapping[str, Path]
    pretrained: Path | None

    @property
    def model(self) -> Path:
        """The folder of the model's own files."""
        return self.models / self.name

    @cached_property
    def published(self) -> PublishedFiles:
        """The model's files below the models folder, published ones and our own."""
        return PublishedFiles(self.models, self.name)  # which walks the folder: once a run

    @property
    def mask_files(self) -> MaskFiles:
        """Where masks are, ours and published ones."""
        return MaskFiles(self.masks, self.published.masks() if self.is_standard else ())

    def has_finetuned(self, task: str) -> bool:
        """Whether a task has fine-tuned weights, or the user says so."""
        return task in self.user_finetuned or self.finetuned(task).exists()

    def finetuned(self, task: str) -> Path:
        """Return the path of a task's fine-tuned weights: the user's, ours or published ones, else where to write them."""
        if task in self.user_finetuned:
            return self.user_finetuned[task]
        return self.published.finetuned(task, self.mode) or finetuned_path(self.models, self.name, task, self.mode)


def paths_of(config: DictConfig) -> Paths:
    """Return the paths of a run on a model. Raise UserError unless finetuned= names tasks."""
    if config.finetuned is not None and not isinstance(config.finetuned, DictConfig):
        raise UserError("with this model, finetuned= names tasks: 'finetuned={MNIST: a.safetensors, Cars: b.pt}'")
    models, mode = expand_path(config.model_location), config.finetuning_mode
    # Published masks belong to standard fine-tuning scored by the model itself: masks of other modes have folders of their own.
    is_standard = mode.linearized == "never" and mode.files == FILE_PREFIXES[0]
    return Paths(
        data=expand_path(config.data_location),
        models=models,
        cache=expand_path(config.cache_dir),
        results=expand_path(config.results_dir),
        name=config.model.name,
        mode=mode.files,
        masks=models / config.model.name / ("" if is_standard else mode.name) / FOLDER,
        is_standard=is_standard,
        user_finetuned={task: expand_path(path) for task, path in (config.finetuned or {}).items()},
        pretrained=expand_path(config.pretrained) if config.pretrained else None,
    )


def file_sources(config: DictConfig) -> tuple[Path, dict[str, Path]]:
    """Return the pre-trained checkpoint of model=files, and the fine-tuned ones by task.

    Raise UserError for all that is missing or ambiguous at once.
    """
    examples = {"pretrained": "A.safetensors", "finetuned": "[B.pt,C.safetensors]", "output": "merged.safetensors"}
    problems = [f"model=files needs {key}, such as {key}={example}" for key, example in examples.items() if not config[key]]
    with collect(problems):
        sources = named_sources(OmegaConf.to_container(config, resolve=True)["finetuned"] or [])
    raise_any(problems)
    return expand_path(config.pretrained), sources


def named_sources(finetuned: object) -> dict[str, Path | StateDict]:
    """Return fine-tuned models by task.

    finetuned: paths or state dicts by task, a list of them, or one path; in a list tasks are called as files are, state dicts
        `model1` and so on, by their number in it.

    Raise UserError with all names that cannot be, or that two models have.
    """
    if isinstance(finetuned, Mapping):
        if any(isinstance(each, Tensor) for each in finetuned.values()):
            raise UserError("finetuned is itself a state dict; name its task, as in finetuned={'cars': module.state_dict()}")
        sources, problems = {str(task): source_of(each) for task, each in finetuned.items()}, []
    else:
        listed = list(map(source_of, finetuned if isinstance(finetuned, list | tuple) else [finetuned]))
        names = [_task_name(source, number) for number, source in enumerate(listed, start=1)]
        by_name = {name: [_shown(source) for source, other in zip(listed, names) if other == name] for name in names}
        problems = [
            f"{' and '.join(same)} would both be task {name}; name them: {quoted('finetuned', dict(zip(('one', 'two'), same)))}"
            for name, same in by_name.items()
            if len(same) > 1
        ]
        sources = dict(zip(names, listed))
    problems += [
        f"a task cannot be called {task!r}, as its files are; name it as in {quoted('finetuned', {'cars': _shown(source)})}"
        for task, source in sources.items()
        if not task or task.startswith(".") or set(task) & {"/", "\\"} or f"{task}.safetensors" in BUNDLE_FILES
    ]
    raise_any(problems)
    return sources


def statistics_paths(config: DictConfig) -> list[Path]:
    """Return the files of statistics that the user names: statistics=[...], or one path."""
    files = config.statistics.files
    return [expand_path(path) for path in ([files] if isinstance(files, str) else files or [])]


def source_of(model: object) -> object:
    """Return the path of a model where it is named by one, in whatever form; a model in memory as it is."""
    return expand_path(model) if isinstance(model, str | os.PathLike | int | float | None) else model


def _task_name(source: object, number: int) -> str:
    """Return the name of the task of a fine-tuned model in a list."""
    if not isinstance(source, Path):
        return f"model{number}"
    return source.name if source.is_dir() else _stem(source.name)


def _shown(source: object) -> str:
    """Return a source for a sentence."""
    return str(source) if isinstance(source, Path) else "STATE_DICT"


def _stem(name: str) -> str:
    """Return a file's name, and the part of it that is named, without the endings that only say how weights are stored."""
    name, at, part = name.partition("@")
    for ending in (INDEX, ".safetensors", *PICKLED):
        name = name.removesuffix(ending)
    return name + at + part
