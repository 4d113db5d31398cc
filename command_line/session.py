"""The session of every script that scores models: check inputs, start processes, fetch data, fine-tune, score, publish."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import xxhash
from omegaconf import DictConfig, OmegaConf

from command_line.build import (
    build_device,
    build_family,
    build_finetuned,
    build_mode,
    build_statistics_settings,
    candidates_per_pass,
    check_modality,
    open_spelled,
)
from command_line.config import choices, manifest_paths, model_name, portable, setting, validate
from command_line.console import ProgressBar
from command_line.finetuning import finetune_missing
from command_line.launch import run_processes
from command_line.paths import Paths, paths_of, statistics_paths
from command_line.preflight import check_inputs, fetch_data
from command_line.readers import refuse_unread
from command_line.trackers import report_run
from src.checkpoints.opening import repetitions
from src.checkpoints.reading import Checkpoint
from src.checkpoints.shards import split_part
from src.checkpoints.solved import SolvedEntries
from src.data.task import Task
from src.errors import UserError, collect, raise_any
from src.evaluation.cache import Cache
from src.evaluation.evaluator import Evaluator
from src.evaluation.lineage import benchmark_of, read_manifests
from src.evaluation.scorer import Scorer
from src.evaluation.search import SearchPoint
from src.experiments.record import Result
from src.merging.engine.inputs import MergeInputs
from src.models.family import ModelFamily
from src.reports.records import deciding, find_record
from src.runtime.distributed import ProcessGroup, init_distributed
from src.runtime.environment import is_distributed
from src.runtime.files import expand_path, file_state, locked_if_free
from src.runtime.memory import keep_freed_memory
from src.state_dict import StateDict, byte_size
from src.statistics.entropy import SampledEntropy
from src.statistics.files import open_statistics
from src.statistics.store import CollectedStatistics


@dataclass(frozen=True)
class Session:
    """A run that scores models of one family.

    family: the model, with its pre-trained weights.
    tasks: those that are merged, or whose models are scored.
    owners: those of them with fine-tuned models.
    others: those that are only scored on.
    question: the options that decide the result.
    manifests: named benchmarks, as `read_manifests` returns them.
    started: the time, as time.monotonic() has it.
    """

    config: DictConfig
    paths: Paths
    group: ProcessGroup
    family: ModelFamily
    tasks: Sequence[Task]
    owners: Sequence[Task]
    others: Sequence[Task]
    question: dict
    progress: ProgressBar
    manifests: list[tuple[str, dict]]
    started: float = field(default_factory=time.monotonic)
    read: dict[str, Checkpoint] = field(default_factory=dict)  # models at paths that are options of a method

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator of the fine-tuned models; missing ones are fine-tuned first, if the configuration allows it.

        The first use fetches data and opens the weights, and raises UserError with what is wrong with them.
        """
        config, family, tasks = self.config, self.family, {task.name: task for task in self.tasks}
        fetch_data(config, [*self.tasks, *self.others], self.group)
        finetune_missing(config, self.paths, family, self.owners, self.group)
        if family.device.type == "cpu":
            keep_freed_memory()  # one merged model after another: fresh memory is slow to write
        checkpoints = build_finetuned(self.paths, family, [task.name for task in self.owners])
        inputs = None
        if tasks:  # one without a model is the pre-trained model's
            models = {name: checkpoints.get(name, family.pretrained) for name in tasks}
            inputs = MergeInputs(
                family.pretrained,
                models,
                family.depth,
                family.is_layer,
                family.device,
                keep=True,
                read_model=self.read_model,
            )
        evaluator = Evaluator(
            scorer=Scorer(family, Cache(self.paths.cache), config.batch_size or family.batch_size, self.progress, self.group),
            tasks=tasks,
            checkpoints=checkpoints,
            inputs=inputs,
            candidates_per_pass=candidates_per_pass(config, family.device, byte_size(family.pretrained), self.group),
        )
        return replace(evaluator, inputs=inputs and self._with_data(inputs, evaluator))

    def _with_data(self, inputs: MergeInputs, evaluator: Evaluator) -> MergeInputs:
        """Return the inputs with what methods learn from the tasks' data, and a place for what is solved with it."""
        files = list(map(file_state, statistics_paths(self.config)))
        settings = OmegaConf.to_container(self.config.statistics, resolve=True)
        method = OmegaConf.to_container(self.config.method, resolve=True)
        question = [self.family.pretrained_digest, evaluator.finetuned_digests, method, self.config.normalise, settings, files]
        folder = self.paths.cache / "solved" / xxhash.xxh3_64_hexdigest(json.dumps(question).encode())
        return replace(
            inputs,
            statistics=self._statistics(evaluator),
            unlabelled=partial(SampledEntropy, self.family, evaluator.tasks, group=self.group, progress=self.progress),
            solved=SolvedEntries(folder, question),
        )

    def read_model(self, path: str) -> Checkpoint:
        """Return the model at a path that is an option of a method, whose digest and notes are then part of the record."""
        if path not in self.read:
            self.read[path] = open_spelled(expand_path(path), self.family)
        return self.read[path]

    def _statistics(self, evaluator: Evaluator) -> Mapping[str, Mapping[str, StateDict]]:
        """Return the statistics of the fine-tuned models, the user's files or those collected when a method asks for them."""
        config, checkpoints = self.config, evaluator.checkpoints
        if files := statistics_paths(config):
            return open_statistics(files, checkpoints, evaluator.inputs.outline)
        return CollectedStatistics(
            self.family,
            evaluator.tasks,
            checkpoints,
            evaluator.finetuned_digests,
            build_statistics_settings(config),
            evaluator.scorer.batch_size,
            config.save_minutes,
            self.group,
            self.progress,
        )

    @property
    def input_files(self) -> list[Path]:
        """The files of weights that this run reads."""
        file = self.config.model.family.pretrained
        named = [self.paths.pretrained, expand_path(file) if isinstance(file, str) else None]
        files = [*self.paths.published.zeroshots(self.paths.mode), *self.paths.published.zeroshots()]
        own = (self.paths.finetuned(task.name) for task in self.owners)
        return [split_part(path)[0] for path in (*named, *files, *own) if path]

    def plan(self, models: Mapping[tuple[str, str], int]) -> None:
        """Announce the work to the progress bar: `models` is the number to be scored, by (task, split)."""
        tasks = {task.name: task for task in (*self.tasks, *self.others)}
        examples = sum(count * self.family.count(tasks[task], split) for (task, split), count in models.items())
        self.progress.plan(examples // self.group.size)

    def about(
        self, title: str, notes: Sequence[str] = (), splits: Sequence[str] = ("val", "test"), masks: str | None = None
    ) -> dict:
        """Return the fields that every `Result` has. For the main process alone: it does not wait for the others here.

        splits: those that were scored.
        masks: digest of the masks that a method was given.
        """
        config, tasks = self.config, {task.name: task for task in (*self.tasks, *self.others)}
        read = {path: self.evaluator.scorer.cache.summary(model).digest for path, model in self.read.items()}
        lineage = {
            **self.evaluator.lineage(tasks, splits),
            **({"masks": masks} if masks else {}),
            **({"read": read} if read else {}),
        }
        return {
            "title": title,
            "config": portable(config),
            "choices": choices(),
            "question": self.question,
            "lineage": lineage,
            "benchmark": benchmark_of(lineage, config.model.name, self.manifests),
            "notes": [
                *self.family.notes(tasks.values()),
                *repetitions(self.paths.pretrained, {task.name: self.paths.finetuned(task.name) for task in self.owners}),
                *(
                    note
                    for source in (*self.evaluator.checkpoints.values(), *self.read.values(), *tasks.values())
                    for note in source.notes
                ),
                *notes,
            ],
            "seconds": time.monotonic() - self.started,
        }

    @property
    def precision_note(self) -> list[str]:
        """A sentence if predictions are in a narrow precision, for scripts that do not count what it changes; else []."""
        precision = self.family.precision
        return [f"scored in {precision}, which rounds: main.py tells how many predictions that changes"] * (precision != "fp32")

    def publish(self, result: Result, curve: Sequence[SearchPoint] = ()) -> Path:
        """Print the table, write the record and its figures, report online; return the folder of the figures.

        curve: the points of a search, to be reported.
        """
        from rich.console import Console

        from src.reports.figures import draw  # with matplotlib, which is slow to import, and errors come before

        self.progress.close()
        result.show(Console())
        print(result.save(self.paths.results))
        if self.evaluator.inputs and self.evaluator.inputs.solved:
            self.evaluator.inputs.solved.remove()
        folder = self.paths.results / result.name
        for path in draw(result, folder):
            print(path)
        report_run(self.config, result, curve)
        return folder


@contextlib.contextmanager
def session(
    config: DictConfig,
    script: str,
    arguments: Sequence[str],
    tasks: Sequence[Task],
    others: Sequence[Task] = (),
    checks: Sequence[Callable[[], None]] = (),
    needs_models: bool = True,
    *,
    kind: str,
    question: Mapping,
) -> Iterator[Session | None]:
    """Yield the session of this process; None if nothing is left to do: other processes did the run, or do it now.

    script: its name, which is also what starts this run again, with these arguments, for world_size=N.
    tasks: those that are merged, or whose models are scored.
    others: those that are only scored on.
    checks: further ones, which raise UserError.
    needs_models: whether all of `tasks` have fine-tuned models, and not those alone whose weights are there.
    kind: of its result.
    question: the options of this script that decide the result.

    Raise UserError with all that is wrong, before anything is loaded.
    """
    started = time.monotonic()
    if config.model.family is None:
        raise UserError(f"model={config.model.name} is scored on nothing; choose another of config/model")
    validate(config)
    build_mode(config)  # whose options the paths are made of
    paths, problems = paths_of(config), []

    owners = [task for task in tasks if needs_models or paths.has_finetuned(task.name)]

    def check_tasks() -> None:
        check_modality(config, [*tasks, *others])  # else nothing that is missing would help
        check_inputs(config, paths, owners, [task for task in (*tasks, *others) if task not in owners])

    named = (
        lambda: refuse_unread(script),
        lambda: build_device(config),
        lambda: build_statistics_settings(config),
        lambda: read_manifests(manifest_paths(config)),
    )
    for check in (*checks, *named, check_tasks):
        with collect(problems):
            check()
    raise_any(problems)
    question = {**setting(config, [task.name for task in (*tasks, *others)]), **question}
    with _undone(config, paths, [task.name for task in owners], kind, question) as is_to_do:
        if is_to_do and (config.world_size or 1) > 1 and not is_distributed():
            run_processes(script, arguments, config.world_size)
            is_to_do = False
        if not is_to_do:
            yield None
            return
        manifests, group = read_manifests(manifest_paths(config)), init_distributed()
        with ProgressBar(silent=not group.is_main) as progress:
            family = build_family(config, paths, build_device(config), progress)
            yield Session(config, paths, group, family, tasks, owners, others, question, progress, manifests, started)


@contextlib.contextmanager
def _undone(config: DictConfig, paths: Paths, owners: Sequence[str], kind: str, question: dict) -> Iterator[bool]:
    """Yield whether a run is to be done: with skip_done, not if its record is there, or another process makes it.

    owners: names of the tasks with fine-tuned models.
    """
    if not config.skip_done or is_distributed():  # the process that started this one has asked
        yield True
        return
    kept = portable(config)
    models = [*map(paths.finetuned, owners), *([paths.pretrained] if paths.pretrained else [])]
    inputs = [split_part(path)[0] for path in models]
    about = f"{kind} of {model_name(config)}, {', '.join(question['tasks'])}"
    claim = paths.results / ".claims" / xxhash.xxh3_64_hexdigest(json.dumps([kind, question, deciding(kept)]).encode())
    with locked_if_free(claim) as is_ours:
        if not is_ours:
            print(f"another process makes this now: {about}", flush=True)
        elif record := find_record(paths.results, kind, question, kept, inputs):
            print(f"done: {record.path}", flush=True)
            is_ours = False
        yield is_ours
