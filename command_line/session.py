"""What every script that scores models does around it: check, fetch, make, score together, tell."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from command_line.config import check_choices, device_of, manifests, setting
from command_line.console import Progress
from command_line.finetuning import require_checkpoints
from command_line.launch import started_together
from command_line.models import at_once, batch_size_of, build_family, heads_from, open_finetuned, told_of_heads
from command_line.preflight import check_inputs, fetch_data
from command_line.trackers import report_online
from src.checkpoints.writing import size_of
from src.data.task import Task
from src.errors import UserError, added_to, raise_any
from src.evaluation.cache import Cache
from src.evaluation.evaluator import Measurement
from src.evaluation.lineage import benchmark_of, read_manifests
from src.evaluation.scorer import Scorer
from src.experiments.record import Run
from src.merging.engine.inputs import Ingredients
from src.models.family import ModelFamily
from src.runtime.distributed import Team, is_member, join


@dataclass(frozen=True)
class Scoring:
    """A run that scores models. others: tasks that are scored on and have no models of their own."""

    config: DictConfig
    team: Team
    measured: Measurement
    others: dict[str, Task]
    progress: Progress
    started: float

    @property
    def tasks(self) -> dict[str, Task]:
        """All that are scored on."""
        return {**self.measured.tasks, **self.others}

    def plan(self, work: Mapping[tuple[str, str], int]) -> None:
        """So many models will be scored on the split of a task; each process of the team does its share."""
        count = self.measured.scorer.family.count
        images = sum(models * count(self.tasks[task], split) for (task, split), models in work.items())
        self.progress.plan(images // self.team.size)

    def about(self, title: str, question: dict, notes: Sequence[str] = (), splits: Sequence[str] = ("val", "test")) -> dict:
        """What every record tells, as fields of a `Run`. question: what this script asks; splits: those it looks at."""
        config, tasks = self.config, self.tasks
        lineage = lineage_of(config, self.measured, tasks, splits)
        narrow = [f"scored in {config.precision}, which rounds: main.py tells how many predictions that changes"]
        return {
            "title": title,
            "config": OmegaConf.to_container(config, resolve=True),
            "question": {**setting(config, list(tasks)), **question},
            "lineage": lineage,
            "benchmark": benchmark_of(lineage, config.model.name, read_manifests(manifests(config))),
            "notes": [*notes_on(config, tasks), *notes, *(narrow if config.precision != "fp32" else [])],
            "seconds": time.monotonic() - self.started,
        }

    def publish(self, run: Run) -> Path | None:
        """Print the table and write the record, in the process that speaks; the folder for what else is made of it."""
        self.progress.done()
        if not self.team.leads:
            return None
        run.show(Console())
        folder = Path(self.config.results_dir).expanduser()
        print(run.save(folder))
        report_online(self.config, run)
        return folder / run.name


@contextlib.contextmanager
def scoring(
    config: DictConfig, script: str, arguments: Sequence[str], tasks: list[Task], others: Sequence[Task] = ()
) -> Iterator[Scoring | None]:
    """Everything that a script scores with; None where other processes were started that do it all.

    tasks: those with fine-tuned models; others: those without.
    """
    started = time.monotonic()
    if config.model.family is None:
        raise UserError(f"model={config.model.name} is scored on nothing; choose another of config/model")
    problems: list[str] = []
    for check in (partial(check_choices, config), partial(_check_unread, config), partial(check_inputs, config, tasks, others)):
        with added_to(problems):
            check()
    raise_any(problems)
    if (config.world_size or 1) > 1 and not is_member():
        started_together(script, arguments, config.world_size)
        yield None
        return
    team = join()
    read_manifests(manifests(config))
    device = device_of(config)
    with Progress(silent=not team.leads) as progress:
        family = build_family(config, device, progress.report)
        fetch_data(config, [*tasks, *others], team)
        measured = measurement(config, family, tasks, team, progress)
        yield Scoring(config, team, measured, {task.name: task for task in others}, progress, started)


def measurement(config: DictConfig, family: ModelFamily, tasks: list[Task], team: Team, progress: Progress) -> Measurement:
    """The fine-tuned models of these tasks, made first where they may be, ready to be scored."""
    names = [task.name for task in tasks]
    require_checkpoints(config, family, tasks, team)
    checkpoints = open_finetuned(config, family, names)
    models = checkpoints or {"no task": family.pretrained}
    given = Ingredients(family.pretrained, models, family.depth, family.device, keep=True)
    cache = Cache(Path(config.cache_dir).expanduser())
    scorer = Scorer(family, cache, batch_size_of(config, family.device), progress.report, team)
    together = at_once(config, family.device, size_of(given.pretrained), team)
    return Measurement(scorer, cache, dict(zip(names, tasks)), checkpoints, given, together)


def lineage_of(
    config: DictConfig, measured: Measurement, tasks: dict[str, Task], splits: Sequence[str] = ("val", "test")
) -> dict:
    """Digests of all that went in, and where heads are from."""
    return {**measured.lineage(tasks, splits), "heads_from": heads_from(config, tasks)}


def _check_unread(config: DictConfig) -> None:
    """Raise UserError for options that merges have and other scripts do not."""
    usual = {"output": None, "analysis": False, "specify_lambda": None, "n_eval_points": None, "search": "grid"}
    problems = [
        f"{key}={config[key]} is an option of main.py, and not of this script" for key in usual if config[key] != usual[key]
    ]
    if HydraConfig.get().runtime.choices.method != "sum":
        problems.append(f"method={HydraConfig.get().runtime.choices.method} is for main.py; this script merges nothing")
    raise_any(problems)


def notes_on(config: DictConfig, tasks: dict[str, Task]) -> list[str]:
    """What is to be known of heads and data."""
    return [*told_of_heads(config, tasks), *(note for task in tasks.values() for note in task.notes)]
