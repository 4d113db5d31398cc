"""The result of a merge: test scores beside those of the pre-trained and fine-tuned models, as a table and a record."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, ClassVar

from rich.console import Console

from src.evaluation.scorer import Score
from src.evaluation.search import SearchPoint
from src.evaluation.selection import Selection
from src.experiments.record import Result, format_coefficient, format_means, half_width
from src.experiments.storage import Storage, storage_of
from src.experiments.tables import show_table
from src.merging.engine.inputs import MergeInputs
from src.merging.engine.statistics import WITHOUT_GRADIENTS
from src.merging.method import Method
from src.state_dict import byte_size
from src.statistics.collection import StatisticsSettings

MODELS = ("zeroshot", "finetuned", "merged")
FIGURES = {"zeroshot": "zero-shot", "finetuned": "fine-tuned", "merged": "merged", "normalised": "normalised"}  # with headings


@dataclass(frozen=True)
class TaskScores:
    """Test scores on one task.

    finetuned: None where the task has no model of its own.
    """

    zeroshot: Score
    finetuned: Score | None
    merged: Score

    @property
    def accuracies(self) -> dict[str, float]:
        """The accuracy of each model that there is, and the normalised one if there is a fine-tuned model, by name."""
        scores = {model: score.accuracy for model in MODELS if (score := getattr(self, model))}
        return scores | ({"normalised": self.normalised} if self.finetuned else {})

    @property
    def variances(self) -> dict[str, float]:
        """The sampling variance of each of `accuracies`."""
        variances = {model: score.variance for model in MODELS if (score := getattr(self, model))}
        return variances | ({"normalised": self.normalised_variance} if self.finetuned else {})

    @property
    def normalised(self) -> float:
        """Merged over fine-tuned accuracy, both measured here, on the same data."""
        return self.merged.accuracy / self.finetuned.accuracy if self.finetuned.right else 0.0

    @property
    def normalised_variance(self) -> float:
        """The variance of `normalised` to first order, both scores taken as independent: the truth is a little smaller."""
        if not self.finetuned.right:
            return 0.0
        relative = self.finetuned.variance / self.finetuned.accuracy**2
        return self.merged.variance / self.finetuned.accuracy**2 + self.normalised**2 * relative

    def record(self) -> dict:
        """Return the scores as JSON values."""
        scores = {model: score.record() for model in MODELS if (score := getattr(self, model))}
        return scores | ({"normalised": self.normalised} if self.finetuned else {})


def mean_accuracies(scores: Collection[TaskScores]) -> dict[str, dict[str, float]]:
    """Return the mean of each of their `accuracies`, over the tasks that have it, with the half width of its 95 % interval."""
    means = {}
    for figure in FIGURES:
        tasks = [task for task in scores if figure in task.accuracies]
        if tasks:
            width = half_width([task.variances[figure] for task in tasks])
            means[figure] = {"mean": fmean(task.accuracies[figure] for task in tasks), "half_width_95": width}
    return means


def uses_gradients(method: Method) -> bool:
    """Whether a method reads gradients of the models on data."""
    return method.unlabelled_split is not None or any(kind not in WITHOUT_GRADIENTS for kind in method.needs)


def data_used(method: Method, statistics: StatisticsSettings) -> str:
    """Return what a method's vector is made of beside models: `none`, or examples, as in `unlabelled test`, `labelled val`.

    The validation data that coefficients are searched on stand apart, in `evaluations`.
    """
    if not method.needs:
        return f"unlabelled {method.unlabelled_split}" if method.unlabelled_split else "none"
    return f"{'labelled' if statistics.reads_labels and uses_gradients(method) else 'unlabelled'} {statistics.split}"


@dataclass(frozen=True, kw_only=True)
class MergeResult(Result):
    """The result of a merge.

    coefficients: by task; None where it is not known (masks that do not say).
    curve: the points that the search evaluated.
    grid_size: number of coefficients that it chose from.
    scores: of test data, by task.
    unseen: scores on tasks that the model was not merged from.
    summary: further measurements of the method, by name.
    bytes_stored: of the merged model, or of what all tasks' models are rebuilt from.
    uses_gradients: whether the method reads gradients.
    data: what it is made of beside models (see `data_used`).
    bytes_pretrained, bytes_changed: of the pre-trained model, and of its entries that fine-tuning changed.
    scale_by_depth: LiNeS' factor of each block.
    storage: where each task has a model of its own.
    """

    kind: ClassVar[str] = "merge"

    coefficients: dict[str, float | None]
    curve: list[SearchPoint]
    grid_size: int
    scores: dict[str, TaskScores]
    summary: dict[str, float]
    bytes_stored: int
    uses_gradients: bool = False
    data: str = "none"
    bytes_pretrained: int = 0
    bytes_changed: int = 0
    scale_by_depth: list[tuple[str, float]] = field(default_factory=list)
    storage: Storage | None = None
    unseen: dict[str, TaskScores] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        selection: Selection,
        scores: Mapping[str, TaskScores],
        unseen: Mapping[str, TaskScores],
        inputs: MergeInputs,
        disk_bytes: int | None,
        statistics: StatisticsSettings,
        **about: Any,
    ) -> "MergeResult":
        """Return the result of what was selected.

        disk_bytes: size of the bundle on disk; None if none was written.
        statistics: what statistics are collected on, where the method needs any.
        about: the fields of every `Result`.
        """
        merges, coefficients = selection.merges, selection.coefficients
        storage = storage_of(merges.compact(coefficients), inputs.pretrained, disk_bytes) if merges.compact else None
        accuracies = {model: {task: figures[model] for task, each in scores.items() if model in (figures := each.accuracies)}
                      for model in MODELS}  # fmt: skip
        return cls(
            coefficients=coefficients,
            curve=selection.curve,
            grid_size=selection.grid_size,
            scores=dict(scores),
            unseen=dict(unseen),
            summary=selection.method.summary(**accuracies),
            scale_by_depth=merges.depth_profile(coefficients, inputs),
            uses_gradients=uses_gradients(selection.method),
            data=data_used(selection.method, statistics),
            bytes_pretrained=byte_size(inputs.pretrained),
            bytes_changed=byte_size({key: leaf for key, leaf in inputs.outline.items() if inputs.changed(key)}),
            bytes_stored=storage.bytes if storage else byte_size(inputs.pretrained),
            storage=storage,
            **about,
        )

    @property
    def coefficient(self) -> float | None:
        """The coefficient that all tasks have; None if they differ or are not known."""
        values = set(self.coefficients.values())
        return values.pop() if len(values) == 1 else None

    @property
    def heading(self) -> str:
        """The title with the coefficient."""
        unknown = "by task" if any(self.coefficients.values()) else "unknown"
        return f"{self.title}, coefficient {format_coefficient(self.coefficient, unknown)}"

    def means(self) -> dict[str, dict[str, float]]:
        """Return mean accuracies with the half width of their 95 % confidence interval, those of unseen tasks apart."""
        unseen = {f"unseen_{figure}": mean for figure, mean in mean_accuracies(self.unseen.values()).items()}
        return {**mean_accuracies(self.scores.values()), **unseen}

    def measurements(self) -> dict:
        return {
            "coefficient": self.coefficient,
            "coefficients": self.coefficients,
            "validation": [vars(point) for point in self.curve],
            "test": {task: scores.record() for task, scores in self.scores.items()},
            **({"unseen": {task: scores.record() for task, scores in self.unseen.items()}} if self.unseen else {}),
            "means": self.means(),
            "evaluations": {"made": len(self.curve), "grid": self.grid_size},
            "summary": self.summary,
            "uses_gradients": self.uses_gradients,
            "data": self.data,
            "bytes_stored": self.bytes_stored,
            "bytes_pretrained": self.bytes_pretrained,
            "bytes_changed": self.bytes_changed,
            "storage": self.storage and {**vars(self.storage), "bits_per_task": self.storage.bits_per_task},
            "scale_by_depth": dict(self.scale_by_depth),
        }

    def show(self, console: Console) -> None:
        """Print the table: tasks by zero-shot, fine-tuned, merged and normalised accuracy, in percent; one of unseen tasks."""
        own = {}
        if len(set(self.coefficients.values())) > 1:
            own = {task: format_coefficient(coefficient, "-") for task, coefficient in self.coefficients.items()}
        _show_scores(console, f"{self.heading}, test accuracy in %", self.scores, own)
        if self.unseen:
            _show_scores(console, f"{self.heading}, on tasks it was not merged from, in %", self.unseen, {})
        for name, figure in self.summary.items():
            console.print(f"{name}: {figure:.4f}", highlight=False)
        if len(self.curve) < self.grid_size:
            console.print(f"validation looked at {len(self.curve)} of {self.grid_size} coefficients", highlight=False)
        self.show_notes(console, self.storage.sentences() if self.storage else [])


def _show_scores(console: Console, title: str, scores: Mapping[str, TaskScores], coefficients: Mapping[str, str]) -> None:
    """Print a table of the figures that any of the tasks has.

    coefficients: of the tasks; {} where they are one.
    """
    means, rows = mean_accuracies(scores.values()), []
    for task, each in scores.items():
        accuracies, own = each.accuracies, [coefficients[task]] if coefficients else []
        rows.append([task, *own, *(f"{100 * accuracies[figure]:.1f}" if figure in accuracies else "-" for figure in means)])
    headings = ("task", *["coefficient"] * bool(coefficients), *(FIGURES[figure] for figure in means))
    show_table(console, title, headings, rows, ("mean", *[""] * bool(coefficients), *format_means(means)))
