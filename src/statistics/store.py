"""Statistics of fine-tuned models on their tasks' data, collected when a method first asks, kept beside the checkpoints."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from src.checkpoints.reading import Checkpoint
from src.errors import UserError
from src.merging.engine.statistics import SHAPES
from src.models.family import TaskLike
from src.runtime.distributed import SINGLE, ProcessGroup
from src.runtime.files import locked
from src.runtime.progress import SILENT, Progress
from src.state_dict import StateDict, vector_outline
from src.statistics.collection import StatisticsSettings, collect
from src.statistics.files import Provenance, StatisticFile, provenance_of, save_statistic
from src.statistics.likelihood import Likelihood
from src.statistics.state import CollectionState

FOLDER = "statistics"  # beside a checkpoint


@dataclass(frozen=True)
class CollectedStatistics(Mapping[str, Mapping[str, StateDict]]):
    """The statistics of a family's fine-tuned models, by kind and task; the processes of a group share the tasks.

    checkpoints: by task.
    digests: of the checkpoints, by task.
    batch_size: of examples that pass through the model together.
    save_minutes: minutes of a collection that a killed run loses at most.
    """

    family: Likelihood
    tasks: Mapping[str, TaskLike]
    checkpoints: Mapping[str, Checkpoint]
    digests: Mapping[str, str]
    settings: StatisticsSettings
    batch_size: int
    save_minutes: float
    group: ProcessGroup = SINGLE
    progress: Progress = SILENT

    def __getitem__(self, kind: str) -> dict[str, StatisticFile]:
        missing = [task for task in self.checkpoints if not self._is_there(task, kind)]
        missing = self.group.all_gather(missing)[0]  # those of a slower process might be collected meanwhile
        for number in self.group.assign([1] * len(missing)):
            self._collect(missing[number], kind)
        self.group.barrier()
        shapes = vector_outline(self.family.pretrained)
        return {task: StatisticFile(self._path(task, kind), shapes) for task in self.checkpoints}

    def __iter__(self) -> Iterator[str]:
        return iter(SHAPES)

    def __len__(self) -> int:
        return len(SHAPES)

    def _is_there(self, task: str, kind: str) -> bool:
        return provenance_of(self._path(task, kind)) == self._provenance(task, kind)

    def _path(self, task: str, kind: str) -> Path:
        path = self.checkpoints[task].path
        settings = self.settings  # methods may take different numbers of examples, each of which stays
        name = f"{path.stem}_{task}_{kind}_{settings.labels}_{settings.split}_{settings.examples}.safetensors"
        return path.parent / FOLDER / name

    def _provenance(self, task: str, kind: str) -> Provenance:
        family, each = self.family, self.tasks[task]
        data = {"data": each.fingerprint(self.settings.split), "head": family.prepare(each), "model": family.identity}
        return Provenance(kind, self.digests[task], {"task": task, **asdict(self.settings), **data})

    def _collect(self, task: str, kind: str) -> None:
        """Write a kind of statistic of a task's model, and what else comes with it, unless another run does it meanwhile."""
        path, what = self._path(task, kind), f"{kind} of {task}"
        wait = partial(self.progress.report, f"waiting for another run that collects {what}", 0)
        with locked(path, wait):
            if not self._is_there(task, kind):
                self._save(task, kind)

    def _save(self, task: str, kind: str) -> None:
        family, each = self.family, self.tasks[task]
        if not hasattr(family, "objective"):
            raise UserError(f"{family.name} does not say how probable answers are, so it has no statistics; use another method")
        family.prepare(each)
        self.progress.plan(min(self.settings.examples, family.count(each, self.settings.split)))
        entries, path = family.on_device(self.checkpoints[task]), self._path(task, kind)
        about = {**asdict(self._provenance(task, kind)), "batch_size": self.batch_size}
        state = CollectionState(path.with_name(f"{path.stem}_unfinished.safetensors"), about, self.save_minutes)
        seen = partial(self.progress.report, f"collecting {kind} of {task}")
        for found in collect(family, entries, each, kind, self.settings, self.batch_size, state, seen):
            if not self._is_there(task, found.kind):  # else it came with another kind, or by itself
                save_statistic(found, self._path(task, found.kind), self._provenance(task, found.kind))
        state.remove()
